"""Runs of the command that get their answers from a function instead of a server."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from tritonclip import InvalidInputError, Progress, ServerUnavailableError
from tritonclip._cli import report
from tritonclip._cli.formats import CLASSIFY, EMBED, SIMILARITY, Kind
from tritonclip._cli.options import Output
from tritonclip._cli.records import Record, journal_path
from tritonclip._cli.run import BulkRun
from tritonclip._images.skipped import SkippedCounts, SkippedFile

NAMES = ["a.jpg", "b.jpg", "a.jpg", "bad 1.jpg", "c.jpg", "d.jpg"]


def answer(name: str, number: int) -> Any:
    """Answer like a server, with an index that differs between runs."""
    if name.startswith("bad"):
        return InvalidInputError(f"image {number}: cannot be decoded", endpoint=f"grpc://h:{number}")
    return [{"score": len(name) / 10, "label": name}]


def vector(name: str, number: int) -> Any:
    result = answer(name, number)
    return result if isinstance(result, Exception) else np.full(3, ord(name[0]) / 7, np.float32)


def answering(
    one: Callable[[str, int], Any], stop: int | None = None, error: BaseException | None = None
) -> Any:
    """Return a function that answers in order, reads two inputs ahead, and fails after `stop` results."""

    def send(inputs: Iterator[str], on_progress: Any) -> Iterator[Any]:
        ahead: list[str] = []
        number = 0
        for name in inputs:
            ahead.append(name)
            if len(ahead) < 3:
                continue
            if error is not None and number == stop:
                raise error
            yield one(ahead.pop(0), number)
            number += 1
        for name in ahead:
            yield one(name, number)
            number += 1

    return send


def run(
    file: Path | None,
    send: Any = None,
    *,
    kind: Kind = CLASSIFY,
    names: Any = NAMES,
    skipped: Sequence[SkippedFile] = (),
    identity: Callable[[], Record] = lambda: {"labels": ["cat"]},
    total: int | None = None,
    texts: Sequence[str] = (),
    top_k: int | None = None,
    **options: Any,
) -> int:
    output = {"form": "table", "resume": False, "fail_fast": False, **options}
    counts = SkippedCounts()
    for one in skipped:
        counts.add(one)
    return BulkRun(
        kind=kind,
        output=Output(file=file, **output),
        inputs=iter(names),
        total=total,
        texts=texts,
        top_k=top_k,
        identity=identity,
        send=send or answering(vector if kind is EMBED else answer),
        skipped=counts,
    ).start()


def test_model_that_changes_during_a_run_fails_it(tmp_path: Path) -> None:
    served = iter(["1" * 64, "2" * 64, "2" * 64])
    target = tmp_path / "out.jsonl"

    def identity() -> Record:
        return {"identity": [next(served)]}

    for resume in (False, True):
        with pytest.raises(InvalidInputError, match=f"{'1' * 12}, now {'2' * 12}.*delete that file to start"):
            run(target, names=["a.jpg"], identity=identity, resume=resume)
        assert not target.exists()


PSD = SkippedFile(path=Path("a.psd"), reason="format; convert it")
UNLISTED = SkippedFile(path=Path("b"), reason="directory; make it readable", is_directory=True)


@pytest.mark.parametrize("form", ["table", "jsonl", "csv", "json"])
@pytest.mark.parametrize(("skipped", "code"), [(PSD, 0), (UNLISTED, 2)])
def test_skipped_files_are_counted_at_the_end(
    form: str, skipped: SkippedFile, code: int, capsys: Any
) -> None:
    assert run(None, names=["a.jpg"], form=form, skipped=[skipped] * 3) == code
    out, err = capsys.readouterr()
    assert err == f"tritonclip: skipped 3 files: 3 {skipped.suffix or 'other'} ({skipped.reason})\n"
    if form == "json":
        (kind,) = json.loads(out)["skipped"]
        assert (kind["suffix"], kind["count"], kind["reason"]) == (skipped.suffix, 3, skipped.reason)


def test_run_into_a_file_counts_skipped_files_too(tmp_path: Path, capsys: Any) -> None:
    assert run(tmp_path / "out.jsonl", names=["a.jpg"], skipped=[PSD]) == 0
    assert capsys.readouterr().err == "tritonclip: skipped 1 file: 1 .psd (format; convert it)\n"


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.json", "out.npy", "out.parquet"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_run_writes_the_same_file(name: str, stop: int, tmp_path: Path) -> None:
    kind = EMBED if name == "out.npy" else CLASSIFY
    whole, resumed = tmp_path / "whole" / name, tmp_path / "resumed" / name
    for path in (whole, resumed):
        path.parent.mkdir()
    assert run(whole, kind=kind) == 2
    broken = answering(vector if kind is EMBED else answer, stop, ServerUnavailableError("gone"))
    with pytest.raises(ServerUnavailableError):
        run(resumed, broken, kind=kind)
    assert not resumed.exists()
    assert len(journal_path(resumed).read_text().splitlines()) == 1 + stop
    assert run(resumed, kind=kind, resume=True) == 2
    files = {path.name: path.read_bytes() for path in resumed.parent.iterdir()}
    assert files == {path.name: path.read_bytes() for path in whole.parent.iterdir()}


def test_parquet_has_a_row_per_input_and_label_and_exact_texts(tmp_path: Path) -> None:
    def answers(name: str, number: int) -> Any:
        found = {"bad.jpg": InvalidInputError("image 1: cannot be decoded"), "none.jpg": []}
        return found.get(name, [{"score": 0.75, "label": "=1+1"}, {"score": 0.25, "label": "dog"}])

    file = tmp_path / "out.parquet"
    assert run(file, answering(answers), names=["a.jpg", "bad.jpg", "none.jpg"]) == 2
    assert pyarrow.parquet.read_table(file).to_pylist() == [
        {"input": "a.jpg", "label": "=1+1", "score": 0.75, "error": None},
        {"input": "a.jpg", "label": "dog", "score": 0.25, "error": None},
        {"input": "bad.jpg", "label": None, "score": None, "error": "cannot be decoded"},
        {"input": "none.jpg", "label": None, "score": None, "error": None},
    ]


def test_interrupted_run_says_how_to_continue(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        run(path, answering(answer, 2, KeyboardInterrupt()))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        f"tritonclip: warning: {path}.partial keeps 2 results; the same command with --resume"
    )
    assert run(path, names=NAMES[:3], resume=True) == 0
    assert capsys.readouterr().out.startswith("1 image in ")


def test_run_without_results_leaves_no_file(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ServerUnavailableError):
        run(tmp_path / "out.csv", answering(answer, 0, ServerUnavailableError("gone")))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_complete_run_is_not_repeated(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "out.jsonl"
    run(path)
    before = path.read_bytes()
    capsys.readouterr()
    assert run(path, answering(answer, 0, KeyboardInterrupt()), resume=True) == 0
    assert capsys.readouterr() == ("", f"tritonclip: {path} is complete; nothing to do\n")
    assert path.read_bytes() == before


def test_run_killed_before_its_journal_is_deleted_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(path, answering(answer, 2, KeyboardInterrupt()))
    path.write_text("written, and then killed")
    assert run(path, resume=True) == 2
    assert [json.loads(line)["input"] for line in path.read_text().splitlines()] == NAMES


def test_complete_file_is_replaced_without_resume(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path)
    assert run(path, names=["z.jpg"]) == 0
    assert [json.loads(line)["input"] for line in path.read_text().splitlines()] == ["z.jpg"]


def test_run_without_inputs_writes_an_empty_file(tmp_path: Path) -> None:
    assert run(tmp_path / "out.csv", names=[]) == 0
    assert (tmp_path / "out.csv").read_text() == "input,label,score,error\n"


def test_failed_input_is_one_line_and_one_record(capsys: Any) -> None:
    assert run(None, form="jsonl") == 2
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["input"] for record in records] == NAMES
    assert records[3] == {"input": "bad 1.jpg", "error": "cannot be decoded"}
    assert err == "tritonclip: error: bad 1.jpg: cannot be decoded\n"


def test_failures_of_an_earlier_run_set_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(path, answering(answer, 4, KeyboardInterrupt()), names=[*NAMES, "e.jpg"])
    assert run(path, names=[*NAMES, "e.jpg"], resume=True) == 2


def test_fail_fast_stops_and_resume_retries_the_input(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(InvalidInputError, match=r"^bad 1\.jpg: cannot be decoded$"):
        run(path, fail_fast=True)
    assert len(journal_path(path).read_text().splitlines()) == 1 + 3
    assert run(path, answering(lambda name, number: []), resume=True) == 0
    assert [json.loads(line)["input"] for line in path.read_text().splitlines()] == NAMES


def test_results_are_printed_before_further_inputs_are_read(capsys: Any) -> None:
    def names() -> Iterator[str]:
        yield from ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        printed.append(capsys.readouterr().out)
        yield "e.jpg"

    printed: list[str] = []
    assert run(None, form="jsonl", names=names()) == 0
    assert [json.loads(line)["input"] for line in printed[0].splitlines()] == ["a.jpg", "b.jpg"]


class Terminal(io.StringIO):
    """A terminal; rich reads its width from COLUMNS."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """The text without its colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.getvalue())

    def run(self, *args: Any, **options: Any) -> int:
        """Call `run` with this terminal as standard output."""
        with contextlib.redirect_stdout(self):
            return run(None, *args, **options)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 columns."""
    out = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return out


def test_single_image_on_a_terminal_is_a_table_with_bars(terminal: Terminal) -> None:
    label = "[bold]cat[/bold]"
    scores = [{"score": 0.75, "label": label}, {"score": 0.25, "label": "dog"}]
    send = answering(lambda name, number: scores)
    assert terminal.run(send, names=["[red]b.jpg"], total=1, texts=[label, "dog"]) == 0
    lines = terminal.shown.splitlines()
    assert lines[0] == "[red]b.jpg"
    cat, dog = (next(line for line in lines if name in line) for name in (label, "dog"))
    assert "0.7500" in cat
    assert "0.2500" in dog
    assert cat.index("╸") > dog.index("╸") > dog.index("0.2500")
    assert lines[-1].startswith("1 image in ")


LABELS = ["cat", "dog", "a much longer label"]


def ranked(name: str, number: int) -> Any:
    return [{"score": (3 - i) / 10, "label": label} for i, label in enumerate(LABELS)]


@pytest.mark.parametrize(("columns", "shown"), [(60, 1), (100, 2), (200, 3)])
def test_several_images_are_one_line_each_with_the_scores_that_fit(
    columns: int, shown: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [f"{'folder/' * 12}{number:03}.jpg" for number in range(200)]
    assert terminal.run(answering(ranked), names=names, total=200, texts=LABELS) == 0
    heading, *rows = terminal.shown.splitlines()
    assert heading.split() == ["score", "label"] * shown + ["image"]
    rest = [] if shown == 3 else [f"the best {shown} of 3 labels per image; --csv prints all"]
    assert rows[200:-1] == rest
    assert rows[-1].startswith("200 images in ")
    for number, row in enumerate(rows[:200]):
        assert len(row) <= columns
        scores = [word for word in row.split() if word.startswith("0.")]
        assert scores == ["0.3000", "0.2000", "0.1000"][:shown]
        assert row.endswith(f"/{number:03}.jpg")
        assert row.index("…" if columns < 200 else "folder") == heading.index("image")


def test_lines_show_no_more_columns_than_top_k_and_the_highest_cosines_first(terminal: Terminal) -> None:
    terminal.run(answering(lambda *one: ranked(*one)[:1]), total=None, texts=LABELS, top_k=1)
    lines = terminal.shown.splitlines()
    assert lines[0].split() == ["score", "label", "image"]
    assert not any("the best" in line for line in lines)
    cosines = [{"text": "cat", "cosine": -0.5}, {"text": "dog", "cosine": 0.25}]
    terminal.truncate(0)
    terminal.run(answering(lambda *one: cosines), kind=SIMILARITY, texts=["cat", "dog"])
    row = next(line for line in terminal.shown.splitlines() if line.endswith("a.jpg"))
    assert row.split() == ["0.2500", "dog", "-0.5000", "cat", "a.jpg"]


@pytest.mark.parametrize("total", [1, 2])
def test_pipe_gets_one_line_of_tab_separated_cells_per_image(total: int, capsys: Any) -> None:
    names = ["a b.jpg", "tab\tbed.jpg"][:total]
    assert run(None, answering(ranked), names=names, total=total, texts=LABELS) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = "cat\t0.3000\tdog\t0.2000\ta much longer label\t0.1000"
    assert lines == [f"a b.jpg\t{scores}", f"tab\\tbed.jpg\t{scores}"][:total]


def test_pipe_gets_all_values_of_an_embedding(capsys: Any) -> None:
    assert run(None, answering(lambda *_: np.array([0.5, 0.1], np.float32)), kind=EMBED, names=["a"]) == 0
    assert capsys.readouterr().out == "a\t0.5\t0.1\n"


@pytest.mark.parametrize("kind", [CLASSIFY, EMBED])
def test_control_characters_of_names_do_not_reach_a_terminal(
    kind: Kind, terminal: Terminal, capsys: Any
) -> None:
    name = "a\x1b]0;owned\x07\n\x9b2J.jpg"
    answers = answering(vector if kind is EMBED else answer)
    assert terminal.run(answers, kind=kind, names=[name, f"bad {name}"], texts=[name]) == 2
    for text in (terminal.shown, capsys.readouterr().err):
        assert all(character.isprintable() or character == "\n" for character in text)
        assert r"a\x1b]0;owned\x07\n\x9b2J.jpg" in text


def test_embeddings_are_printed_in_aligned_columns(terminal: Terminal) -> None:
    vectors = {"a cat": np.array([0.5, -0.25], np.float32), "b": np.array([1, 0], np.float32)}
    assert terminal.run(answering(lambda name, number: vectors[name]), kind=EMBED, names=list(vectors)) == 0
    assert terminal.shown.splitlines()[:3] == [
        "first of 2 values  input",
        "+0.5000 -0.2500    a cat",
        "+1.0000 +0.0000    b",
    ]


def test_total_that_comes_with_the_counts_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(report, "_stderr", Console(file=shown, force_terminal=True, width=100))
    with report.progress(None, 0) as update:
        update(Progress(done=1, failed=0, retries=0))
        update(Progress(done=2, failed=0, retries=0, total=40))
    assert "2/40" in shown.getvalue()
    assert "/s" in shown.getvalue()
