"""What the command shows to people: tables on standard output, messages and progress on standard error."""

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
from rich.text import Text

from tritonclip._cli.formats import EMBED, Kind
from tritonclip._cli.records import Record
from tritonclip._text import printable
from tritonclip._types import Health, ModelInfo, ModelStatistics
from tritonclip._types import Progress as Counts

SHOWN_VALUES = 6
_stderr = Console(stderr=True)


def say(message: str) -> None:
    """One line on standard error, above the progress bar if there is one."""
    _stderr.print(Text(f"tritonclip: {printable(' '.join(message.split()))}"), soft_wrap=True)


def warn(message: str) -> None:
    """A warning, one line."""
    say(f"warning: {message}")


def fail(message: str) -> None:
    """An error, one line."""
    say(f"error: {message}")


class Tally:
    """Counts the records of a run and takes its time.

    Attributes:
        noun: What an input is, "image" or "text".
        done: The records that have come, failed ones included.
        failed: How many of them are errors.
    """

    def __init__(self, noun: str) -> None:
        """Begin with nothing, now."""
        self.noun = noun
        self.done = self.failed = 0
        self._start = time.perf_counter()

    def counted(self, records: Generator[Record, None, None]) -> Generator[Record, None, None]:
        """The same records; closes them with itself."""
        try:
            for record in records:
                self.done += 1
                self.failed += "error" in record
                yield record
        finally:
            records.close()

    def elapsed(self) -> str:
        """The time since the beginning, in a unit that suits it."""
        elapsed_s = time.perf_counter() - self._start
        return f"{elapsed_s * 1000:.1f} ms" if elapsed_s < 10 else f"{elapsed_s:.1f} s"


def summary(tally: Tally, *, before: int = 0, file: Path | None = None) -> None:
    """How many inputs took how long, and where the results are."""
    text = f"{tally.done} {tally.noun}{'' if tally.done == 1 else 's'} in {tally.elapsed()}"
    text += f", {tally.failed} failed" if tally.failed else ""
    text += f", {before} from before" if before else ""
    text += f"; wrote {printable(str(file))}" if file else ""
    if file or tally.done > tally.failed or not tally.failed:
        Console().print(Text(text), soft_wrap=True)


@contextmanager
def progress(total: int | None, before: int, *, beside_file: bool) -> Iterator[Callable[[Counts], None]]:
    """A bar on standard error while results go elsewhere; nothing if stderr is no terminal.

    Args:
        total: The number of inputs; None if it is not known.
        before: How many of them were done before this run.
        beside_file: Results go to a file. Otherwise there is a bar only if standard output is no terminal:
            on a terminal the results themselves show how far the run is.

    Yields:
        What takes the counts of this run.
    """
    if not _stderr.is_terminal or (Console().is_terminal and not beside_file):
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
    """The results of each input as they come; failed inputs are told on standard error."""
    console = Console(file=file)
    good = (record for record in records if "error" not in record)
    if kind is EMBED:
        _embeddings(console, good)
    else:
        for record in good:
            console.print(Text(record["input"]), soft_wrap=True)
            console.print(_scores(kind, record))


def _scores(kind: Kind, record: Record) -> Table:
    """A row a label or text, with a bar for its score or cosine."""
    label, score = kind.columns
    table = Table(box=None, padding=(0, 1))
    for header in (label, score, ""):
        table.add_column(header, justify="right" if header == score else "left")
    for item in record[kind.field]:
        bar = ProgressBar(total=1.0, completed=max(0.0, item[score]), width=30)
        table.add_row(Text(item[label]), f"{item[score]:.4f}", bar)
    return table


def _embeddings(console: Console, records: Iterator[Record]) -> None:
    """The first values of each vector, then the input, so that lines keep their form as they come."""
    for first in records:
        dim = len(first["embedding"])
        heading = f"first of {dim} values"
        width = max(8 * min(SHOWN_VALUES, dim) - 1, len(heading))
        console.print(Text(f"{heading:{width}}  input", style="bold"), soft_wrap=True)
        for record in chain([first], records):
            values = " ".join(f"{value:+.4f}" for value in record["embedding"][:SHOWN_VALUES])
            console.print(Text(f"{values:{width}}  {record['input']}"), soft_wrap=True)


def health(states: Sequence[tuple[str, Health | None]]) -> None:
    """For each endpoint its state, and that of each model; None for one that did not answer."""
    console = Console()
    for endpoint, state in states:
        console.print(Text(endpoint), soft_wrap=True)
        answers = {"answers": False} if state is None else {"live": state.live, "ready": state.ready}
        table = Table(box=None, show_header=False, padding=(0, 1))
        for name, good in {**answers, **(state.models if state else {})}.items():
            table.add_row(Text(name), Text("yes" if good else "NO", style="green" if good else "bold red"))
        if state is not None and state.inference is not None:
            style = {"ok": "green", "overloaded": "yellow"}.get(state.inference, "bold red")
            table.add_row(Text("inference"), Text(state.inference, style=style), Text(state.reason or ""))
        console.print(table)


def models(infos: Sequence[ModelInfo]) -> None:
    """For each model what it was prepared from."""
    console = Console()
    for info in infos:
        console.print(Text(info.name), soft_wrap=True)
        facts = {
            "checkpoint": info.checkpoint,
            "revision": info.revision,
            "sha256": info.sha256,
            "logit scale": f"{info.logit_scale:.4f}",
            "weights": "RANDOM, for load tests" if info.random_weights else "trained",
        }
        for name, fact in facts.items():
            console.print(Text(f" {name:11}  {fact}"), soft_wrap=True)


def statistics(models: Sequence[ModelStatistics]) -> None:
    """One row a model: what it has done since it was loaded, with the mean time of a request in ms."""
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
        table.add_row(*map(Text, row))
    Console().print(table)
