"""What becomes of an answer's token counts: a warning of each text that was cut, or a record of all."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from tritonclip._calls import wire
from tritonclip.errors import TruncatedTextWarning

SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """A text that the server encoded.

    Attributes:
        kind: "label" or "text".
        index: The caller's index of it.
        tokens: Its tokens before the cut, start and end included; a label's with its template.
        text: The text as the caller knows it.
    """

    kind: str
    index: int
    tokens: int
    text: str

    @property
    def warning(self) -> str | None:
        """What to tell of it where it was cut, else None."""
        if self.tokens <= wire.MAX_TOKENS:
            return None
        shown = repr(self.text[:SHOWN_CHARACTERS])
        return f"{self.kind} {self.index} has {self.tokens} tokens and was cut at {wire.MAX_TOKENS}: {shown}"


_collected: ContextVar[list[TokenCount] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[TokenCount]]:
    """Collect the counts of calls made in this block, by this task or its own; nothing is warned of."""
    counts: list[TokenCount] = []
    token = _collected.set(counts)
    try:
        yield counts
    finally:
        _collected.reset(token)


def note_counts(
    counts: Sequence[int], texts: Sequence[str], *, kind: str, indices: Sequence[int] | None = None
) -> None:
    """Take in an answer's counts: collect them, or warn by TruncatedTextWarning of the texts that were cut.

    Args:
        counts: The number of each text's tokens.
        texts: The texts as the caller knows them.
        kind: "label" or "text".
        indices: The caller's index of each; None: 0, 1, 2 ...
    """
    collected = _collected.get()
    for index, tokens, text in zip(indices or range(len(texts)), counts, texts, strict=True):
        count = TokenCount(kind=kind, index=index, tokens=tokens, text=text)
        if collected is not None:
            collected.append(count)
        elif count.warning:
            warnings.warn(count.warning, TruncatedTextWarning, stacklevel=2)


class LabelReport:
    """Reports the token counts of a bulk run's labels once, although every answer holds them.

    Args:
        labels: The candidate labels as the caller knows them.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._lock = threading.Lock()
        self._done = False

    def __call__(self, counts: Sequence[int]) -> None:
        """Report an answer's counts, unless another answer was first."""
        with self._lock:
            done, self._done = self._done, True
        if not done:
            note_counts(counts, self._labels, kind="label")
