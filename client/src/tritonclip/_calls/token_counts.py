"""Warnings about labels and texts, and their token counts: emitted by the client, or collected."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from tritonclip.errors import LabelWarning, TruncatedTextWarning

SHOWN_CHARACTERS = 60


class TokenCounts(NamedTuple):
    """The token counts of an answer's texts.

    Attributes:
        tokens: Number of tokens of each text before truncation, start and end included.
        limit: Number of tokens of a text that the model reads; longer texts were truncated.
    """

    tokens: Sequence[int]
    limit: int


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """The token count of a text that the server encoded.

    Attributes:
        kind: "label" or "text".
        index: The text's index in the caller's list.
        tokens: Number of tokens before truncation, start and end included; a label's with its template.
        limit: Number of tokens that the model reads.
        text: The text as the caller gave it.
    """

    kind: str
    index: int
    tokens: int
    limit: int
    text: str

    @property
    def warning(self) -> str | None:
        """The warning text if the text was truncated, else None."""
        if self.tokens <= self.limit:
            return None
        shown = repr(self.text[:SHOWN_CHARACTERS])
        return f"{self.kind} {self.index} has {self.tokens} tokens and was cut at {self.limit}: {shown}"


@dataclass
class Collected:
    """The token counts and the warnings about labels of one block.

    Attributes:
        counts: The count of each text, in the order of the answers.
        label_warnings: Warnings about the labels as a whole; see `checks.label_warning`.
    """

    counts: list[TokenCount] = field(default_factory=list)
    label_warnings: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """All warnings, each once."""
        truncated = [count.warning for count in self.counts if count.warning]
        return list(dict.fromkeys([*self.label_warnings, *truncated]))


_collected: ContextVar[Collected | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[Collected]:
    """Collect what all calls in this block report, child tasks included, instead of emitting warnings."""
    collected = Collected()
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def report_counts(
    counts: TokenCounts, texts: Sequence[str], *, kind: str, indices: Sequence[int] | None = None
) -> None:
    """Collect an answer's counts, or emit a TruncatedTextWarning for each text that was truncated.

    Args:
        counts: The token counts of the texts.
        texts: The texts as the caller gave them.
        kind: "label" or "text".
        indices: The index of each text in the caller's list; None: 0, 1, 2 ...
    """
    collected = _collected.get()
    if collected is None and max(counts.tokens, default=0) <= counts.limit:
        return
    for index, tokens, text in zip(indices or range(len(texts)), counts.tokens, texts, strict=True):
        count = TokenCount(kind=kind, index=index, tokens=tokens, limit=counts.limit, text=text)
        if collected is not None:
            collected.counts.append(count)
        elif count.warning:
            warnings.warn(count.warning, TruncatedTextWarning, stacklevel=2)


def report_label_warning(text: str) -> None:
    """Collect a warning about the labels as a whole, or emit a LabelWarning."""
    collected = _collected.get()
    if collected is None:
        warnings.warn(text, LabelWarning, stacklevel=4)
    else:
        collected.label_warnings.append(text)


class LabelReport:
    """A report of the token counts of a bulk run's labels, made once although every answer holds them.

    Args:
        labels: The candidate labels as the caller gave them.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._lock = threading.Lock()
        self._done = False

    def __call__(self, counts: TokenCounts) -> None:
        """Report an answer's counts, unless an earlier answer's were reported."""
        with self._lock:
            done, self._done = self._done, True
        if not done:
            report_counts(counts, self._labels, kind="label")
