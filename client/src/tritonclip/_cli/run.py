"""A run of the command over many inputs: results become records, on standard output or in a file."""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from tritonclip._cli import report
from tritonclip._cli.formats import Kind, Writer, check_suffix, print_json, write_csv, write_file, write_jsonl
from tritonclip._cli.options import EXIT_OK, EXIT_USAGE, Output
from tritonclip._cli.records import Journal, Record, journal_path
from tritonclip._cli.terminal import visible
from tritonclip._images.skipped import SkippedCounts
from tritonclip._messages.text import error_reason, printable
from tritonclip._types import Progress
from tritonclip.errors import InvalidInputError, TritonClipError

Send = Callable[[Iterator[str], Callable[[Progress], None]], Iterator[Any]]
_STDOUT_WRITERS: dict[str, Writer] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
}


@dataclass(frozen=True, kw_only=True)
class BulkRun:
    """One run over many inputs.

    Attributes:
        kind: Kind of the records.
        output: Destination of the records.
        inputs: Names of the inputs, read lazily.
        total: Number of inputs, or None if it is not known in advance.
        count: Counts the inputs if `total` is None, until an event is set; see `report.progress`.
        identity: Returns everything that determines the results, for the journal's header. It asks the server
            for its models, so it is called for runs into a file only, before and after the inputs.
        send: Takes inputs and a progress callback, and yields each input's result or error in order.
        texts: The labels or texts that have scores.
        top_k: Maximum number of scores per input; None for all.
        noun: Noun for an input, "image" or "text".
        skipped: Counts of the files that the search for inputs leaves out.
    """

    kind: Kind
    output: Output
    inputs: Iterator[str]
    total: int | None
    identity: Callable[[], Record]
    send: Send
    count: Callable[[threading.Event], int | None] = lambda stop: None
    texts: Sequence[str] = ()
    top_k: int | None = None
    noun: str = "image"
    skipped: SkippedCounts = field(default_factory=SkippedCounts)

    def start(self) -> int:
        """Run, and return the exit code, which is that of invalid input if any input failed."""
        file = self.output.file
        if file is None:
            return self._to_stdout()
        check_suffix(self.kind, file)
        if self.output.resume and file.exists() and not journal_path(file).exists():
            report.say(f"{file} is complete; nothing to do")
            return EXIT_OK
        return self._to_file(file)

    def _to_stdout(self) -> int:
        counter = report.RecordCounter(self.noun)
        is_table = self.output.form == "table"
        file = _stdout(self.output.form)
        console = Console(file=file)
        has_bar = self.total != 1 and (is_table or not console.is_terminal)
        with self._progress(0, console) if has_bar else nullcontext(_ignore) as bar:
            records = counter.count(self._records(self.inputs, bar))
            with closing(records):
                if is_table:
                    single, texts = self.total == 1, self.texts
                    report.results(console, self.kind, records, texts=texts, top_k=self.top_k, single=single)
                else:
                    self._stdout_writer()(self.kind, records, file)
        if is_table:
            report.summary(counter)
        sys.stdout.flush()  # raises BrokenPipeError here rather than at interpreter exit
        return self._exit_code(counter.failed)

    def _progress(
        self, before: int, results: Console | None = None
    ) -> AbstractContextManager[Callable[[Progress], None]]:
        return report.progress(self.total, before, count=self.count, results=results)

    def _stdout_writer(self) -> Writer:
        if self.output.form != "json":
            return _STDOUT_WRITERS[self.output.form]
        return partial(print_json, skipped=lambda: [asdict(kind) for kind in self.skipped.kinds()])

    def _exit_code(self, failed: int) -> int:
        """Report the files that were left out; a directory that cannot be listed is a failure."""
        report.skipped(self.skipped.kinds())
        return EXIT_USAGE if failed or self.skipped.directories else EXIT_OK

    def _to_file(self, file: Path) -> int:
        header = {"command": self.kind.command, **self.identity()}
        journal = Journal(file, header, resume=self.output.resume)
        before = len(journal)
        counter = report.RecordCounter(self.noun)
        try:
            with self._progress(before) as bar:
                records = counter.count(self._records(journal.remaining(self.inputs), bar))
                with closing(records):
                    for record in records:
                        journal.append(record)
            journal.check({"command": self.kind.command, **self.identity()})
            write_file(self.kind, journal, file)
            failed = journal.failed
            journal.discard()
        except BaseException:
            if len(journal):
                report.warn(
                    f"{journal.path} keeps {len(journal)} results; "
                    "the same command with --resume continues the run"
                )
            raise
        finally:
            journal.close()
        report.summary(counter, before=before, file=file)
        return self._exit_code(failed)

    def _records(
        self, inputs: Iterable[str], on_progress: Callable[[Progress], None]
    ) -> Generator[Record, None, None]:
        in_flight: deque[str] = deque()

        def track() -> Iterator[str]:
            for name in inputs:
                in_flight.append(name)
                yield name

        results = self.send(track(), on_progress)
        try:
            for result in results:
                yield self._record(printable(in_flight.popleft()), result)
        finally:
            if isinstance(results, Generator):
                results.close()  # cancels the requests in flight

    def _record(self, name: str, result: Any) -> Record:
        if not isinstance(result, TritonClipError):
            return {"input": name, self.kind.field: result}
        text = f"{visible(name)}: {error_reason(result)}"
        if self.output.fail_fast:
            raise InvalidInputError(text) from result
        report.fail(text)
        return {"input": name, "error": error_reason(result)}


def _ignore(counts: Progress) -> None:
    """Take the counts of a run that has no progress bar."""


def _stdout(form: str) -> TextIO:
    """Return standard output, in UTF-8 for programs and tolerant of unencodable names for people."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if form == "table":
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdout
