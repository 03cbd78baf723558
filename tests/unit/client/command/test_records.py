from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonclip import InvalidInputError
from tritonclip._cli.formats import (
    CLASSIFY,
    EMBED,
    PARQUET_ROWS,
    SIMILARITY,
    Kind,
    check_suffix,
    inputs_path,
    print_json,
    write_csv,
    write_file,
    write_json,
    write_jsonl,
)
from tritonclip._cli.records import Journal, dump_record, journal_path
from tritonclip._cli.terminal import plain, visible
from tritonclip._messages.text import error_reason, printable, shortest_floats

HEADER = {"command": "classify", "labels": ["cat", "dog"], "sha256": ["ab"], "identity": ["1" * 64]}
CAT = {"input": "a.jpg", "predictions": [{"score": 0.75, "label": "cat"}, {"score": 0.25, "label": "dog"}]}
BAD = {"input": "b, \n.jpg", "error": "cannot be decoded"}
NONE = {"input": "c.jpg", "predictions": []}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def journal_of(target: Path, *records: dict[str, Any], header: dict[str, Any] = HEADER) -> Journal:
    journal = Journal(target, header, resume=False)
    for record in records:
        journal.append(record)
    return journal


def written(writer: Any, kind: Kind, *records: dict[str, Any]) -> str:
    file = io.StringIO()
    writer(kind, records, file)
    return file.getvalue()


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_error_reason_omits_index_and_server() -> None:
    error = InvalidInputError("image 17: no such\nfile", model="m", endpoint="grpc://h:1")
    assert error_reason(error) == "no such file"
    assert error_reason(InvalidInputError("text 3 has no end")) == "has no end"
    assert error_reason(InvalidInputError("image 3")) == "image 3"
    assert error_reason(InvalidInputError("images 3")) == "images 3"


def test_undecodable_file_name_is_escaped() -> None:
    assert printable("käse\udcff.jpg") == "käse\\xff.jpg"


def test_shortest_floats_round_trip_float32() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    printed = json.loads(json.dumps(shortest_floats(values)))
    assert (np.array(printed, np.float32) == values).all()
    assert json.dumps(shortest_floats(vector(0.1))) == "[0.1]"


def test_journal_writes_each_record_immediately(target: Path) -> None:
    journal = journal_of(target, CAT)
    assert [json.loads(line) for line in journal_path(target).read_text().splitlines()] == [HEADER, CAT]
    journal.close()
    assert journal_path(target).exists()


def test_journal_resumes_after_an_incomplete_line(target: Path) -> None:
    journal_of(target, CAT, BAD).close()
    path = journal_path(target)
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(NONE).encode()[:-4])
    journal = Journal(target, HEADER, resume=True)
    assert path.read_bytes() == whole
    assert (len(journal), journal.failed) == (2, 1)
    journal.append(NONE)
    assert list(journal.records()) == [CAT, BAD, NONE]
    journal.close()


def test_journal_with_incomplete_header_starts_over(target: Path) -> None:
    journal_path(target).write_text('{"command": "cla')
    journal = Journal(target, HEADER, resume=True)
    journal.append(CAT)
    assert list(journal.records()) == [CAT]
    journal.close()


def test_existing_journal_without_resume_is_rejected(target: Path) -> None:
    journal_of(target, CAT).close()
    with pytest.raises(InvalidInputError, match="--resume, or delete that file"):
        Journal(target, HEADER, resume=False)
    with closing(Journal(target, HEADER, resume=True)) as journal:
        assert len(journal) == 1


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"labels": ["cat"]}, "different labels;"),
        ({"sha256": ["cd"], "template": "{}"}, "sha256, template;"),
        ({"identity": ["2" * 64]}, rf"identity of the server's model \({'1' * 12}, now {'2' * 12}\);"),
        ({"identity": [""]}, rf"identity of the server's model \({'1' * 12}, now unknown\);"),
    ],
)
def test_journal_with_different_header_is_rejected_and_kept(change: Any, names: str, target: Path) -> None:
    journal_of(target, CAT).close()
    before = journal_path(target).read_bytes()
    with pytest.raises(InvalidInputError, match=names):
        Journal(target, {**HEADER, **change}, resume=True)
    assert journal_path(target).read_bytes() == before


def test_journal_without_identity_is_continued_with_a_warning(target: Path) -> None:
    old = {key: value for key, value in HEADER.items() if key != "identity"}
    with closing(Journal(target, old, resume=False)) as journal:
        journal.append(CAT)
    with pytest.warns(UserWarning, match="does not record the settings of the server's model"):
        journal = Journal(target, HEADER, resume=True)
    assert list(journal.records()) == [CAT]
    journal.close()


def test_damaged_journal_is_rejected(target: Path) -> None:
    journal_of(target, CAT).close()
    with journal_path(target).open("ab") as file:
        file.write(b"\0\0\0\n")
    with pytest.raises(InvalidInputError, match="line 3 is damaged"):
        Journal(target, HEADER, resume=True)


def test_journal_in_use_is_rejected(target: Path) -> None:
    journal = journal_of(target, CAT)
    with pytest.raises(InvalidInputError, match="in use"):
        Journal(target, HEADER, resume=True)
    journal.close()


def test_unwritable_journal_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot write"):
        Journal(tmp_path / "missing" / "out.csv", HEADER, resume=False)


def test_empty_journal_is_removed(target: Path) -> None:
    journal_of(target).close()
    assert not journal_path(target).exists()


def test_remaining_inputs_count_duplicates(target: Path) -> None:
    journal = journal_of(target, CAT, CAT, {"input": "caf\\xe9.jpg", "error": "no"})
    inputs = ["a.jpg", "b.jpg", "a.jpg", "a.jpg", "caf\udce9.jpg", "b.jpg"]
    assert list(journal.remaining(iter(inputs))) == ["b.jpg", "a.jpg", "b.jpg"]
    assert list(journal.remaining(iter(inputs))) == ["b.jpg", "a.jpg", "b.jpg"]
    journal.close()


def test_remaining_inputs_are_read_lazily(target: Path) -> None:
    journal = journal_of(target)
    inputs = iter(["a", "b", "c"])
    remaining = journal.remaining(inputs)
    assert next(remaining) == "a"
    assert next(inputs) == "b"
    journal.close()


def test_journal_preserves_embeddings_bit_for_bit(target: Path) -> None:
    values = vector(0.1, -0.0, 1e-42, 3.4e38)
    journal = journal_of(target, {"input": "a", "embedding": values})
    (record,) = journal.records()
    assert record["embedding"].tobytes() == values.tobytes()
    assert journal.dim == 4
    journal.close()
    again = Journal(target, HEADER, resume=True)
    assert again.dim == 4
    again.close()


def test_jsonl_has_one_line_per_record() -> None:
    lines = written(write_jsonl, CLASSIFY, CAT, BAD, NONE).splitlines()
    assert [json.loads(line) for line in lines] == [CAT, BAD, NONE]
    assert dump_record({"input": "Ä", "embedding": vector(0.1)}) == '{"input": "Ä", "embedding": [0.1]}'


def test_csv_has_a_row_per_label_and_keeps_every_input() -> None:
    rows = list(csv.reader(io.StringIO(written(write_csv, CLASSIFY, CAT, BAD, NONE))))
    assert rows == [
        ["input", "label", "score", "error"],
        ["a.jpg", "cat", "0.75", ""],
        ["a.jpg", "dog", "0.25", ""],
        ["b, \n.jpg", "", "", "cannot be decoded"],
        ["c.jpg", "", "", ""],
    ]


def test_csv_holds_similarities_and_embeddings() -> None:
    record = {"input": "a", "similarities": [{"text": "cat", "cosine": 0.5}]}
    assert written(write_csv, SIMILARITY, record) == "input,text,cosine,error\na,cat,0.5,\n"
    text = written(write_csv, EMBED, {"input": "a", "embedding": vector(0.1, 2)}, BAD)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert json.loads(rows[0]["embedding"]) == [0.1, 2.0]
    assert (rows[1]["embedding"], rows[1]["error"]) == ("", "cannot be decoded")


FORMULAS = ["=1+1", "+1", "-1.jpg", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1"]


@pytest.mark.parametrize("name", [*FORMULAS, "a=1", "'a", "1-2", ""])
def test_csv_cell_that_a_spreadsheet_would_evaluate_gets_an_apostrophe(name: str) -> None:
    wanted = f"'{name}" if name in FORMULAS else name
    record = {"input": name, "similarities": [{"text": name, "cosine": -0.5}]}
    failed = {"input": name, "error": name}
    rows = list(csv.reader(io.StringIO(written(write_csv, SIMILARITY, record, failed), newline="")))
    assert rows[1:] == [[wanted, wanted, "-0.5", ""], [wanted, "", "", wanted]]
    assert json.loads(written(write_jsonl, SIMILARITY, record)) == record


def test_csv_on_a_terminal_escapes_control_characters() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    record = {"input": "\x1b[2J\n.jpg", "error": "no"}
    files = [Terminal(), io.StringIO()]
    for file in files:
        write_csv(CLASSIFY, [record], file)
    assert files[0].getvalue().splitlines()[1] == "\\x1b[2J\\n.jpg,,,no"
    assert next(csv.DictReader(io.StringIO(files[1].getvalue())))["input"] == record["input"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("käse 猫\u200d.jpg", "käse 猫\u200d.jpg"),
        ("a\x1b]0;x\x07b", "a\\x1b]0;x\\x07b"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("gpj.\u202etxt", "gpj.\\u202etxt"),
        ("\udcff.jpg", "\\xff.jpg"),
    ],
)
def test_control_characters_are_escaped_for_terminals(text: str, wanted: str) -> None:
    assert visible(text) == wanted
    assert plain(text).plain == wanted


@pytest.mark.parametrize("records", [(), (CAT,), (CAT, BAD, NONE)])
def test_json_is_one_document(records: Any) -> None:
    assert json.loads(written(write_json, CLASSIFY, *records)) == {"results": list(records)}
    document = json.loads(written(print_json, CLASSIFY, *records))
    assert document["results"] == list(records)
    assert document["elapsed_ms"] >= 0


def test_json_prints_nothing_before_the_first_record() -> None:
    file = io.StringIO()
    with pytest.raises(ZeroDivisionError):
        print_json(CLASSIFY, ({"input": 1 // zero} for zero in [0]), file)
    assert file.getvalue() == ""


@pytest.mark.parametrize("kind", [CLASSIFY, SIMILARITY])
@pytest.mark.parametrize("name", ["out.npy", "out.txt", "out", "jsonl"])
def test_unsupported_suffix_is_rejected(kind: Kind, name: str) -> None:
    with pytest.raises(Exception, match=r"must end in \.jsonl, \.csv, \.json or \.parquet$"):
        check_suffix(kind, Path(name))


def embed_journal(path: Path, *records: dict[str, Any]) -> Journal:
    return journal_of(path, *records, header={"command": "embed"})


def test_npy_has_nan_for_failed_inputs_and_a_file_of_row_names(tmp_path: Path) -> None:
    path = tmp_path / "out.v1.npy"
    journal = embed_journal(path, BAD, {"input": "a", "embedding": vector(0.1, 2)})
    write_file(EMBED, journal, path)
    array = np.load(path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[np.nan, np.nan], vector(0.1, 2)])
    assert inputs_path(path) == tmp_path / "out.v1.inputs.jsonl"
    assert [json.loads(line) for line in inputs_path(path).read_text().splitlines()] == [BAD, {"input": "a"}]
    journal.close()
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy", ".jsonl", ".partial"}


def test_npy_of_failures_only_has_zero_columns(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    journal = embed_journal(path, BAD, BAD)
    write_file(EMBED, journal, path)
    assert np.load(path).shape == (2, 0)
    journal.close()


@pytest.mark.parametrize("count", [1, PARQUET_ROWS + 1])
def test_parquet_has_nan_for_failed_inputs(count: int, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    good = [{"input": str(i), "embedding": vector(i, 0.1)} for i in range(count)]
    journal = embed_journal(path, BAD, *good)
    write_file(EMBED, journal, path)
    journal.close()
    table = parquet.read_table(path)
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<")
    rows = table.to_pylist()
    assert (rows[0]["input"], rows[0]["error"]) == (BAD["input"], BAD["error"])
    assert np.isnan(rows[0]["embedding"]).all()
    assert rows[1:] == [
        {"input": r["input"], "embedding": r["embedding"].tolist(), "error": None} for r in good
    ]


def test_parquet_of_failures_only_is_readable(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    journal = embed_journal(path, BAD)
    write_file(EMBED, journal, path)
    journal.close()
    assert parquet.read_table(path).column("error").to_pylist() == [BAD["error"]]


def test_failed_write_keeps_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = journal_of(path, CAT)
    path.mkdir()
    (path / "full").touch()
    with pytest.raises(InvalidInputError, match="cannot write"):
        write_file(CLASSIFY, journal, path)
    journal.close()
    with closing(Journal(path, HEADER, resume=True)) as journal:
        assert list(journal.records()) == [CAT]
