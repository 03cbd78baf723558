"""Percentage of long work on large files: a bar on a terminal, and lines elsewhere.

The work reports its bytes with `advance`. It shows nothing if it takes less than a second or if nobody called
`shown_progress`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SHOWN_AFTER_S = 1.0
LINE_EVERY_S = 10.0
NO_BARS = "HF_HUB_DISABLE_PROGRESS_BARS"
"""Environment variable of huggingface_hub, which turns off the bars of its downloads. It counts here too."""


class _Progress:
    def __init__(self, what: str, total_bytes: int, report: Callable[[str], None]) -> None:
        self._what, self._total, self._report = what, total_bytes, report
        self._done = 0
        self._next_s = time.monotonic() + SHOWN_AFTER_S
        self._move_bar: Callable[[int], None] | None = None
        self.close: Callable[[], None] = lambda: None

    def advance(self, count: int) -> None:
        self._done = min(self._done + count, self._total)
        if self._move_bar is not None:
            self._move_bar(self._done)
        elif time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LINE_EVERY_S
            if sys.stderr.isatty() and not os.environ.get(NO_BARS):
                self._open_bar()
            else:
                self._report(
                    f"{self._what}: {100 * self._done // self._total} % of {self._total / 1e6:.0f} MB"
                )

    def _open_bar(self) -> None:
        from rich.console import Console  # imported only if the work is long
        from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        task = bar.add_task(self._what, total=self._total, completed=self._done)
        bar.start()
        self._move_bar = lambda done: bar.update(task, completed=done)
        self.close = bar.stop


_current: ContextVar[_Progress | None] = ContextVar("_current", default=None)


@contextmanager
def shown_progress(what: str, total_bytes: int, report: Callable[[str], None]) -> Iterator[None]:
    """Show how far the work of the block has come.

    Args:
        what: Description of the work, such as "reading openai/clip-vit-base-patch32".
        total_bytes: Bytes that the work will report with `advance`.
        report: Called with each line if standard error is no terminal.
    """
    progress = _Progress(what, total_bytes, report)
    token = _current.set(progress if total_bytes > 0 else None)
    try:
        yield
    finally:
        _current.reset(token)
        progress.close()


def advance(count_bytes: int) -> None:
    """Add bytes to the work that is shown, if any."""
    progress = _current.get()
    if progress is not None:
        progress.advance(count_bytes)
