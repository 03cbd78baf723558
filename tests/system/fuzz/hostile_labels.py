"""Hostile labels: too many, too long, not UTF-8, blank, and unusual Unicode."""

from __future__ import annotations

from hypothesis import strategies as st

ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
RIGHT_TO_LEFT = "\u202e\u202b\u2067\u200fשלום مرحبا"
CONTROLS = "".join(map(chr, (*range(0x20), 0x7F, 0x85, 0x2028, 0x2029)))
MARKS = "\u0300\u0301\u0323\u034f\u0489\u20dd"
EMOJI = ("👩\u200d👩\u200d👧\u200d👦", "🏴\U000e0067\U000e0062\U000e007f", "👍🏿", "❤\ufe0f\u200d🔥", "🇩🇪🇫🇷")
SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "</w>",
    "<unk>",
    "{}",
    "%s",
    "../..",
    "\\",
    '"',
    "ﷺ",
    "ſt",
    "ß",
    "İ",
)
NOT_UTF8 = (
    b"\xff",
    b"\xc0\x80",  # NUL in an overlong form
    b"\xed\xa0\x80\xed\xb0\x80",  # surrogates
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"\xe2\x82",  # truncated
    b"\x80",
    "Grün".encode("latin-1"),
    "cat".encode("utf-16"),
)
BLANK = ("", " ", "\t\n", "\u00a0", "\u3000", "\u2003\u2028", "\x1c\x1d\x1e\x1f")

_pieces = st.sampled_from([*SPECIAL, *EMOJI, ZERO_WIDTH, RIGHT_TO_LEFT, CONTROLS, "a", "cat", " "])
_stacks = st.builds(
    lambda base, mark, count: base + mark * count, st.just("e"), st.sampled_from(MARKS), st.integers(1, 2050)
)
_texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=st.characters(codec="utf-8", min_codepoint=0x300), max_size=40),
    st.lists(_pieces, max_size=8).map("".join),
    st.builds(lambda piece, count: piece * count, _pieces, st.integers(1, 400)),
    _stacks,
    st.sampled_from(BLANK),
)
_good = st.integers(0, 50).map(lambda number: b"label %d" % number)


def labels() -> st.SearchStrategy[bytes]:
    """Generate one label, more often invalid than valid."""
    broken = st.builds(
        lambda before, wrong: before.encode() + wrong, st.text(max_size=8), st.sampled_from(NOT_UTF8)
    )
    return st.one_of(
        _good,
        _texts.map(lambda text: text.encode("utf-8")),
        _texts.map(lambda text: text.encode("utf-8")),
        broken,
        st.binary(max_size=64),
        st.integers(4090, 4100).map(lambda size: b"x" * size),
        st.sampled_from((5_000, 100_000)).map(lambda size: b"x" * size),
    )


OVERSIZED = ([b"x" * 4096] * 2100, [b"label"] * 20_000, [b"x" * 9_000_000])
"""Lists that exceed each of the limits."""


def label_lists() -> st.SearchStrategy[list[bytes]]:
    """Generate the labels of one request. Lists above the limits are rare."""
    few = st.lists(labels(), max_size=5)
    short = labels().filter(lambda label: len(label) < 600)
    many = st.builds(lambda label, count: [label] * count, short, st.sampled_from((300, 9_999, 10_001)))
    rare = st.one_of(many, st.sampled_from(OVERSIZED))
    return st.integers(0, 99).flatmap(lambda draw: rare if draw == 99 else few)
