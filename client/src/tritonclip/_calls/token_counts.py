"""Warnings about labels and texts, and their token counts: emitted by the client, or collected."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from tritonclip._messages.callers import warn
from tritonclip._messages.text import shown
from tritonclip.errors import LabelWarning, TruncatedTextWarning

SHOWN_CHARACTERS = 60
MAX_WARNINGS = 100


class TokenCounts(NamedTuple):
    """The token counts of an answer's texts.

    Attributes:
        tokens: Number of tokens of each text before truncation, start and end included.
        limit: Number of tokens of a text that the model reads; longer texts were truncated.
    """

    tokens: Sequence[int]
    limit: int


@dataclass
class Collected:
    """The token counts of one block, and its warnings about labels and texts.

    Attributes:
        texts: Number of labels and texts in the answers.
        tokens: Number of their tokens before truncation, start and end included; a label's with its template.
        token_limit: Number of tokens of a text that the model reads; None before the first answer.
        label_warnings: Warnings about the labels as a whole; see `checks.label_warning`.
        truncations: Warnings about texts that were truncated.
    """

    texts: int = 0
    tokens: int = 0
    token_limit: int | None = None
    label_warnings: list[str] = field(default_factory=list)
    truncations: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """All warnings, each once, but no more than `MAX_WARNINGS` about texts."""
        shown = [*dict.fromkeys(self.label_warnings), *self.truncations[:MAX_WARNINGS]]
        more = len(self.truncations) - MAX_WARNINGS
        return [*shown, f"{more} more labels or texts were cut"] if more > 0 else shown


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
    counts: TokenCounts,
    texts: Sequence[str],
    *,
    kind: str,
    indices: Sequence[int] | None = None,
    templates: Sequence[str] | None = None,
    total: int | None = None,
) -> None:
    """Collect an answer's counts, or emit a TruncatedTextWarning for each text that was truncated.

    Args:
        counts: The token counts of the texts.
        texts: The texts as the caller gave them.
        kind: "label" or "text".
        indices: The index of each text in the caller's list; None: 0, 1, 2 ...
        templates: The template of each text, to be named in the warning; None if it is the only one.
        total: Number of tokens that were read; None for the sum of the counts.
    """
    collected = _collected.get()
    if collected is not None:
        collected.texts += len(texts)
        collected.tokens += sum(counts.tokens) if total is None else total
        collected.token_limit = counts.limit
    if max(counts.tokens, default=0) <= counts.limit:
        return
    for position, (tokens, text) in enumerate(zip(counts.tokens, texts, strict=True)):
        if tokens <= counts.limit:
            continue
        index = indices[position] if indices else position
        within = f" in the template {shown(templates[position])}" if templates else ""
        warning = (
            f"{kind} {index} has {tokens} tokens{within} and was cut at {counts.limit}: "
            f"{text[:SHOWN_CHARACTERS]!r}"
        )
        if collected is not None:
            collected.truncations.append(warning)
        else:
            warn(warning, TruncatedTextWarning)


def report_label_warning(text: str) -> None:
    """Collect a warning about the labels as a whole, or emit a LabelWarning."""
    collected = _collected.get()
    if collected is None:
        warn(text, LabelWarning)
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
