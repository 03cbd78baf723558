"""Output for people: tables on standard output, messages and progress on standard error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tritonclip._cli.formats import CLASSIFY, EMBED, Kind
from tritonclip._cli.records import Record
from tritonclip._cli.terminal import plain, visible
from tritonclip._images.skipped import SkippedKind, summarize_skipped
from tritonclip._messages.text import shortest_floats
from tritonclip._types import Health, ModelInfo, ModelStatistics, Timings
from tritonclip._types import Progress as Counts

SHOWN_VALUES = 6
MIN_NAME_CELLS, MAX_LABEL_CELLS = 24, 32
_GAP = "  "
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
        return f"{elapsed_s * 1000:.1f} ms" if elapsed_s < 1 else f"{elapsed_s:.1f} s"

    def rate(self) -> str:
        """Return the records per second since the start."""
        return f"{self.done / (time.perf_counter() - self._start):.1f}/s"


def summary(counter: RecordCounter, *, before: int = 0, file: Path | None = None) -> None:
    """Print the number of inputs, their duration and rate, and the file that was written.

    If standard output is not a terminal, it holds results only. The summary of a run without a file then goes
    to standard error, if that is a terminal.
    """
    text = f"{counter.done} {counter.noun}{'' if counter.done == 1 else 's'} in {counter.elapsed()}"
    text += f", {counter.rate()}" if counter.done > 1 else ""
    text += f", {counter.failed} failed" if counter.failed else ""
    text += f", {before} from earlier runs" if before else ""
    text += f"; wrote {file}" if file else ""
    if file or counter.done > counter.failed or not counter.failed:
        console = Console()
        if file is None and not console.is_terminal:
            console = _stderr
        if file or console.is_terminal:
            console.print(plain(text), soft_wrap=True)


def timings(requests: Sequence[Timings]) -> None:
    """Print where the time of the requests went: of one, or the mean of several.

    It goes where `summary` goes, to standard error if standard output is not a terminal.
    """
    if not requests:
        say("no timings: no request succeeded, or the server is too old for them")
        return
    mean = Timings._make(sum(parts) / len(requests) for parts in zip(*requests, strict=True))
    parts = ", ".join(f"{name.removesuffix('_ms')} {part_ms:.1f}" for name, part_ms in mean._asdict().items())
    of = "" if len(requests) == 1 else f" per request, the mean of {len(requests)}"
    console = Console()
    (console if console.is_terminal else _stderr).print(
        plain(f"{mean.total_ms:.1f} ms{of}: {parts}"), soft_wrap=True
    )


class _TimeLeftColumn(TimeRemainingColumn):
    """The estimated time left; empty until it is known."""

    def render(self, task: Task) -> Text:
        """Return the time as h:mm:ss."""
        return Text() if task.time_remaining is None else super().render(task).append(" left")


@contextmanager
def progress(
    total: int | None,
    before: int,
    *,
    count: Callable[[threading.Event], int | None] = lambda stop: None,
    results: Console | None = None,
) -> Iterator[Callable[[Counts], None]]:
    """Show a progress bar on standard error if that is a terminal: total, rate, and time left.

    Args:
        total: Number of inputs, or None if it is not known, or comes with the counts.
        before: Number of inputs that earlier runs have done.
        count: Counts the inputs in a thread if `total` is None, until the event is set.
        results: Console on which results are printed during the run. On a terminal they appear above the bar.

    Yields:
        A callback for the counts of this run.
    """
    if not _stderr.is_terminal:
        yield lambda counts: None
        return
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        _TimeLeftColumn(),
    )
    start = time.perf_counter()
    stop = threading.Event()
    live = Progress(*columns, console=_stderr, transient=True, redirect_stdout=False, redirect_stderr=False)
    with live as bar:
        task = bar.add_task("", total=total, completed=before, counts="")

        def update(counts: Counts) -> None:
            text = f"{counts.done / max(time.perf_counter() - start, 1e-9):.1f}/s"
            text += f", {counts.failed} failed" if counts.failed else ""
            text += f", {counts.retries} retries" if counts.retries else ""
            bar.update(task, completed=before + counts.done, counts=text)
            if counts.total is not None:
                bar.update(task, total=before + counts.total)

        if total is None:
            threading.Thread(target=lambda: bar.update(task, total=count(stop)), daemon=True).start()
        shared = results is not None and results.is_terminal
        if results is not None and shared:
            results.push_render_hook(live.live)  # draws the bar again below each result
        try:
            yield update
        finally:
            stop.set()
            if results is not None and shared:
                results.pop_render_hook()


def results(
    console: Console,
    kind: Kind,
    records: Iterable[Record],
    *,
    texts: Sequence[str] = (),
    top_k: int | None = None,
    single: bool = False,
) -> None:
    """Print the results of each input as they arrive. Failed inputs are reported on standard error.

    A terminal gets a table with bars for a single image, and one line per image for several. A pipe gets one
    line of tab-separated cells per input.

    Args:
        console: Standard output.
        kind: Kind of the records.
        records: The records.
        texts: The labels or texts that have scores.
        top_k: Maximum number of scores per record; None for all.
        single: There is one image.
    """
    good = (record for record in records if "error" not in record)
    if not console.is_terminal:
        _tab_separated(console, kind, good)
    elif kind is EMBED:
        _embeddings(console, good)
    elif single:
        for record in good:
            console.print(plain(record["input"]), soft_wrap=True)
            console.print(_scores(kind, record))
    else:
        _lines(console, kind, good, texts, top_k)


def _tab_separated(console: Console, kind: Kind, records: Iterable[Record]) -> None:
    """Print each input, and its labels and scores, or all values of its embedding."""
    for record in records:
        cells = [record["input"]]
        if kind is EMBED:
            cells += map(str, shortest_floats(record["embedding"]))
        else:
            text, score = kind.columns
            for item in record[kind.field]:
                cells += [item[text], f"{item[score]:.4f}"]
        console.file.write("\t".join(map(visible, cells)) + "\n")
        console.file.flush()


def _lines(
    console: Console, kind: Kind, records: Iterable[Record], texts: Sequence[str], top_k: int | None
) -> None:
    """Print one line per image: as many of its highest scores as fit, and then its name.

    The name comes last because its length is not known in advance.
    """
    text, score = kind.columns
    score_cells = 6 if kind is CLASSIFY else 7  # cosines have a sign
    wanted = min(top_k or len(texts), len(texts))
    longest = max(cell_len(visible(one)) for one in texts)
    room = console.width - MIN_NAME_CELLS
    label_cells = max(len(text), min(longest, MAX_LABEL_CELLS, room - score_cells - 2 * len(_GAP)))
    pair_cells = score_cells + label_cells + 2 * len(_GAP)
    shown = max(1, min(wanted, room // pair_cells))
    name_cells = max(console.width - shown * pair_cells, 1)

    def line(pairs: Iterable[tuple[str, str]], name: str) -> str:
        cells = [f"{one:>{score_cells}}{_GAP}{_cropped(label, label_cells)}{_GAP}" for one, label in pairs]
        return "".join(cells) + _tail(name, name_cells)

    console.print(plain(line([(score, text)] * shown, "image"), style="bold"), soft_wrap=True)
    for record in records:
        best = sorted(record[kind.field], key=lambda item: -item[score])[:shown]
        pairs = [(f"{item[score]:.4f}", visible(item[text])) for item in best]
        pairs += [("", "")] * (shown - len(pairs))
        console.print(plain(line(pairs, visible(record["input"]))), soft_wrap=True)
    if shown < wanted:
        note = f"the best {shown} of {wanted} {text}s per image; --csv prints all"
        console.print(plain(note), soft_wrap=True)


def _cropped(text: str, cells: int) -> str:
    """Return the beginning of a text, padded to a number of cells of the terminal."""
    return set_cell_size(text, cells) if cell_len(text) <= cells else f"{set_cell_size(text, cells - 1)}…"


def _tail(text: str, cells: int) -> str:
    """Return the end of a text that fits in a number of cells of the terminal."""
    return text if cell_len(text) <= cells else f"…{set_cell_size(text[::-1], cells - 1)[::-1]}"


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
        if state is not None and not state.live and state.inference is None and state.reason:
            console.print(plain(state.reason), soft_wrap=True)
        for name, good in {**answers, **(state.models if state else {})}.items():
            table.add_row(plain(name), plain("yes" if good else "NO", style="green" if good else "bold red"))
        if state is not None and state.inference is not None:
            style = {"ok": "green", "overloaded": "yellow"}.get(state.inference, "bold red")
            table.add_row(plain("inference"), plain(state.inference, style=style), plain(state.reason or ""))
        console.print(table)


def models(infos: Sequence[ModelInfo]) -> None:
    """Print each checkpoint once, with the names of its models."""
    console = Console()
    names: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for info in infos:
        facts = {
            "checkpoint": info.checkpoint,
            "revision": info.revision,
            "sha256": info.sha256,
            "identity": info.identity or "unknown",
            "logit scale": f"{info.logit_scale:.4f}",
            "weights": "RANDOM, for load tests" if info.random_weights else "trained",
        }
        names.setdefault(tuple(facts.items()), []).append(info.name)
    for shared, sharing in names.items():
        for name, fact in [*shared, ("models", ", ".join(sharing))]:
            console.print(plain(f"{name:11}  {fact}"), soft_wrap=True)


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
