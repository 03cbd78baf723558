"""Output for people: tables on standard output, messages and progress on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from tritonclip._cli.formats import EMBED, Kind
from tritonclip._cli.records import Record
from tritonclip._cli.terminal import plain
from tritonclip._images.skipped import SkippedKind, summarize_skipped
from tritonclip._types import Health, ModelInfo, ModelStatistics
from tritonclip._types import Progress as Counts

SHOWN_VALUES = 6
_stderr = Console(stderr=True)


def say(message: str) -> None:
    """Print one line on standard error, above the progress bar if there is one."""
    _stderr.print(plain(f"tritonclip: {' '.join(message.split())}"), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning as one line."""
    say(f"warning: {message}")


def fail(message: str) -> None:
    """Print an error as one line."""
    say(f"error: {message}")


def skipped(kinds: tuple[SkippedKind, ...]) -> None:
    """Print how many files were left out, and why."""
    if summary := summarize_skipped(kinds):
        say(summary)


class RecordCounter:
    """Counts the records of a run and measures its duration.

    Attributes:
        noun: Noun for an input, "image" or "text".
        done: Number of records so far, failed ones included.
        failed: Number of records that are errors.
    """

    def __init__(self, noun: str) -> None:
        """Start the clock."""
        self.noun = noun
        self.done = self.failed = 0
        self._start = time.perf_counter()

    def count(self, records: Generator[Record, None, None]) -> Generator[Record, None, None]:
        """Yield the records while counting them, and close their generator at the end."""
        try:
            for record in records:
                self.done += 1
                self.failed += "error" in record
                yield record
        finally:
            records.close()

    def elapsed(self) -> str:
        """Return the time since the start, in ms or s."""
        elapsed_s = time.perf_counter() - self._start
        return f"{elapsed_s * 1000:.1f} ms" if elapsed_s < 10 else f"{elapsed_s:.1f} s"


def summary(counter: RecordCounter, *, before: int = 0, file: Path | None = None) -> None:
    """Print the number of inputs, their duration, and the file that was written."""
    text = f"{counter.done} {counter.noun}{'' if counter.done == 1 else 's'} in {counter.elapsed()}"
    text += f", {counter.failed} failed" if counter.failed else ""
    text += f", {before} from earlier runs" if before else ""
    text += f"; wrote {file}" if file else ""
    if file or counter.done > counter.failed or not counter.failed:
        Console().print(plain(text), soft_wrap=True)


@contextmanager
def progress(total: int | None, before: int, *, to_file: bool) -> Iterator[Callable[[Counts], None]]:
    """Show a progress bar on standard error if that is a terminal.

    Args:
        total: Number of inputs, or None if it is not known.
        before: Number of inputs that earlier runs have done.
        to_file: Results go to a file. If they go to a terminal instead, no bar is shown, because the results
            themselves show the progress.

    Yields:
        A callback for the counts of this run.
    """
    if not _stderr.is_terminal or (Console().is_terminal and not to_file):
        yield lambda counts: None
        return
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    start = time.perf_counter()
    live = Progress(*columns, console=_stderr, transient=True, redirect_stdout=False, redirect_stderr=False)
    with live as bar:
        task = bar.add_task("", total=total, completed=before, counts="")

        def update(counts: Counts) -> None:
            rate = counts.done / max(time.perf_counter() - start, 1e-9)
            of = f" of {total}" if total is not None else ""
            text = f"{before + counts.done}{of} done, {counts.failed} failed, {counts.retries} retries"
            text += f", {rate:.1f}/s"
            bar.update(task, completed=before + counts.done, counts=text)

        yield update


def results(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """Print the results of each input as they arrive. Failed inputs are reported on standard error."""
    console = Console(file=file)
    good = (record for record in records if "error" not in record)
    if kind is EMBED:
        _embeddings(console, good)
    else:
        for record in good:
            console.print(plain(record["input"]), soft_wrap=True)
            console.print(_scores(kind, record))


def _scores(kind: Kind, record: Record) -> Table:
    """Return a table with one row per label or text, and a bar for its score or cosine."""
    label, score = kind.columns
    table = Table(box=None, padding=(0, 1))
    for header in (label, score, ""):
        table.add_column(header, justify="right" if header == score else "left")
    for item in record[kind.field]:
        bar = ProgressBar(total=1.0, completed=max(0.0, item[score]), width=30)
        table.add_row(plain(item[label]), f"{item[score]:.4f}", bar)
    return table


def _embeddings(console: Console, records: Iterator[Record]) -> None:
    """Print the first values of each vector, then its input, so that columns stay aligned."""
    for first in records:
        dim = len(first["embedding"])
        heading = f"first of {dim} values"
        width = max(8 * min(SHOWN_VALUES, dim) - 1, len(heading))
        console.print(plain(f"{heading:{width}}  input", style="bold"), soft_wrap=True)
        for record in chain([first], records):
            values = " ".join(f"{value:+.4f}" for value in record["embedding"][:SHOWN_VALUES])
            console.print(plain(f"{values:{width}}  {record['input']}"), soft_wrap=True)


def health(states: Sequence[tuple[str, Health | None]]) -> None:
    """Print the state of each endpoint and its models; None for an endpoint that did not answer."""
    console = Console()
    for endpoint, state in states:
        console.print(plain(endpoint), soft_wrap=True)
        answers = {"answers": False} if state is None else {"live": state.live, "ready": state.ready}
        table = Table(box=None, show_header=False, padding=(0, 1))
        for name, good in {**answers, **(state.models if state else {})}.items():
            table.add_row(plain(name), plain("yes" if good else "NO", style="green" if good else "bold red"))
        if state is not None and state.inference is not None:
            style = {"ok": "green", "overloaded": "yellow"}.get(state.inference, "bold red")
            table.add_row(plain("inference"), plain(state.inference, style=style), plain(state.reason or ""))
        console.print(table)


def models(infos: Sequence[ModelInfo]) -> None:
    """Print the checkpoint of each model."""
    console = Console()
    for info in infos:
        console.print(plain(info.name), soft_wrap=True)
        facts = {
            "checkpoint": info.checkpoint,
            "revision": info.revision,
            "sha256": info.sha256,
            "identity": info.identity or "unknown",
            "logit scale": f"{info.logit_scale:.4f}",
            "weights": "RANDOM, for load tests" if info.random_weights else "trained",
        }
        for name, fact in facts.items():
            console.print(plain(f" {name:11}  {fact}"), soft_wrap=True)


def statistics(models: Sequence[ModelStatistics]) -> None:
    """Print one row per model: its counts since it was loaded, and mean times per request in ms."""
    rows = [
        (
            model.name,
            *(str(n) for n in (model.requests, model.failures, model.executions)),
            *(f"{n:.1f}" for n in (model.mean_batch, model.mean_ms, model.queue_ms, model.compute_ms)),
        )
        for model in models
    ]
    columns = "model requests failed batches rows/batch ms queue compute"
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in columns.split():
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(plain, row))
    Console().print(table)
