"""One run of the command over many inputs: results to records, records to standard output or a file."""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tritonclip._cli import report
from tritonclip._cli.formats import Kind, Writer, check_suffix, print_json, write_csv, write_file, write_jsonl
from tritonclip._cli.options import EXIT_OK, EXIT_USAGE, Output
from tritonclip._cli.records import Journal, Record, journal_path
from tritonclip._text import error_reason, printable
from tritonclip._types import Progress
from tritonclip.errors import InvalidInputError, TritonClipError

Ask = Callable[[Iterator[str], Callable[[Progress], None]], Iterator[Any]]
_STDOUT_WRITERS: dict[str, Writer] = {
    "table": report.results,
    "json": print_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one call of the command does.

    Attributes:
        kind: What its records hold.
        output: Where they go.
        inputs: The names of the inputs, read as they are needed.
        total: Their number, where it is known before.
        decides: Gives all that decides the results, for the journal's first line; asks the server.
        ask: Gets inputs and a callback, gives each input's result or error, in order, as they come.
        noun: What an input is, "image" or "text".
    """

    kind: Kind
    output: Output
    inputs: Iterator[str]
    total: int | None
    decides: Callable[[], Record]
    ask: Ask
    noun: str = "image"

    def start(self) -> int:
        """Do it, and return the exit code: that of invalid input if any input failed."""
        file = self.output.file
        if file is None:
            self.decides()  # a server that is not there is told at once; within the run it is waited for
            return self._to_stdout()
        check_suffix(self.kind, file)
        if self.output.resume and file.exists() and not journal_path(file).exists():
            report.say(f"{printable(str(file))} is complete; nothing to do")
            return EXIT_OK
        return self._to_file(file)

    def _to_stdout(self) -> int:
        tally = report.Tally(self.noun)
        with report.progress(self.total, 0, beside_file=False) as bar:
            records = tally.counted(self._records(self.inputs, bar))
            with closing(records):
                _STDOUT_WRITERS[self.output.form](self.kind, records, _stdout(self.output.form))
        if self.output.form == "table":
            report.summary(tally)
        sys.stdout.flush()  # a reader that is gone is told here, not when Python ends
        return EXIT_USAGE if tally.failed else EXIT_OK

    def _to_file(self, file: Path) -> int:
        header = {"command": self.kind.command, **self.decides()}
        journal = Journal(file, header, resume=self.output.resume)
        before = len(journal)
        tally = report.Tally(self.noun)
        try:
            with report.progress(self.total, before, beside_file=True) as bar:
                records = tally.counted(self._records(journal.remaining(self.inputs), bar))
                with closing(records):
                    for record in records:
                        journal.append(record)
            write_file(self.kind, journal, file)
            failed = journal.failed
            journal.discard()
        except BaseException:
            if len(journal):
                report.warn(
                    f"{printable(str(journal.path))} keeps {len(journal)} results; "
                    "the same command with --resume continues the run"
                )
            raise
        finally:
            journal.close()
        report.summary(tally, before=before, file=file)
        return EXIT_USAGE if failed else EXIT_OK

    def _records(
        self, inputs: Iterable[str], on_progress: Callable[[Progress], None]
    ) -> Generator[Record, None, None]:
        under_way: deque[str] = deque()

        def taken() -> Iterator[str]:
            for name in inputs:
                under_way.append(name)
                yield name

        results = self.ask(taken(), on_progress)
        try:
            for result in results:
                yield self._record(printable(under_way.popleft()), result)
        finally:
            if isinstance(results, Generator):
                results.close()  # ends the requests under way

    def _record(self, name: str, result: Any) -> Record:
        if not isinstance(result, TritonClipError):
            return {"input": name, self.kind.field: result}
        text = f"{name}: {error_reason(result)}"
        if self.output.fail_fast:
            raise InvalidInputError(text) from result
        report.fail(text)
        return {"input": name, "error": error_reason(result)}


def _stdout(form: str) -> TextIO:
    """Standard output: UTF-8 for programs; for people as the terminal has it, without failing at a name."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if form == "table":
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdout
