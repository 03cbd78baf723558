from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from tritonclip import InvalidInputError
from tritonclip._cli.inputs import (
    check_complete,
    check_not_empty,
    count_known,
    read_images,
    read_lines,
    read_texts,
    split_items,
    split_stream,
)

URL = "https://host/cat.jpg"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: two images, and one below."""
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Trickle(io.RawIOBase):
    """A stream that returns one chunk per read."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self.chunks.pop(0) if self.chunks else b""
        buffer[: len(chunk)] = chunk
        return len(chunk)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    def _stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return _stdin


@pytest.mark.parametrize(
    ("items", "images"),
    [
        (["a.png", "b.png", "a cat", "a dog"], 2),
        (["a.png"], 1),
        (["a.png", "sub", "*.png", "**/c.*", URL, "-", "a cat"], 6),
        (["a.png", "what is it?", "[no]"], 1),
        (["a.png", "a cat", "sub"], 1),
        (["a.png", "a\0b"], 1),
    ],
)
def test_leading_arguments_that_name_images_are_images(items: list[str], images: int, folder: Path) -> None:
    assert split_items(items) == (items[:images], items[images:])


@pytest.mark.parametrize(
    ("items", "only_images", "part"),
    [
        (["a cat"], False, "a cat: no such file; the first arguments must be images"),
        (["no*.png", "a cat"], False, r"no\*.png: no such file"),
        (["a.png", "missing.jpg"], False, "missing.jpg: no such file; if it is a label"),
        (["a.png", "a cat", "b.png"], False, "b.png: images go before the labels"),
        (["a.png", "a cat", URL], False, "images go before the labels"),
        (["a.png", "a cat"], True, "a cat: no such file; if options give the labels"),
        (["-", "-"], False, "given twice"),
    ],
)
def test_misplaced_or_missing_inputs_are_rejected(
    items: list[str], only_images: bool, part: str, folder: Path
) -> None:
    with pytest.raises(click.UsageError, match=part):
        split_items(items, only_images=only_images)


def test_images_come_from_files_directories_patterns_and_urls(folder: Path) -> None:
    assert list(read_images(["sub", "?.png", URL, "a.png"])) == ["sub/c.png", "a.png", "b.png", URL, "a.png"]


def test_count_is_known_for_files_and_urls_only(folder: Path) -> None:
    assert count_known(["a.png", URL]) == 2
    assert [count_known(["a.png", other]) for other in ("sub", "*.png", "-")] == [None] * 3


def test_empty_directory_is_rejected_before_the_run(folder: Path) -> None:
    check_not_empty(["a.png", "sub", "*.png", "-", URL])
    (folder / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="empty"):
        check_not_empty(["a.png", "empty"])


def test_directory_with_a_file_that_would_be_left_out_is_rejected(folder: Path) -> None:
    (folder / "sub" / "notes.txt").touch()
    check_complete(["a.png", "sub", "*.png", "-", URL])
    for number in range(5):
        (folder / "sub" / f"IMG_{number}.PSD").touch()
    with pytest.raises(InvalidInputError, match=r"^--strict: .* leave out 5 files: 5 .psd \(.*'sub/IMG_"):
        check_complete(["a.png", "sub"])
    check_complete(["a.png", "sub"], apart_from=str(folder / "sub"))


def test_skipped_files_of_all_directories_are_reported(folder: Path) -> None:
    for name in ("1.psd", "sub/2.psd"):
        (folder / name).touch()
    skipped: list[Path] = []
    list(read_images(["sub", "a.png", "."], on_skip=lambda one: skipped.append(one.path)))
    assert sorted(skipped) == [Path("1.psd"), Path("sub/2.psd"), Path("sub/2.psd")]


def test_stdin_list_is_split_at_line_ends(stdin: Any) -> None:
    stdin(b"a b.png\r\n\n \n" + URL.encode() + b"\ncaf\xe9.png\nlast")
    assert list(read_images(["first.png", "-"][1:])) == ["a b.png", URL, os.fsdecode(b"caf\xe9.png"), "last"]


def test_stdin_list_is_split_at_nuls_with_null(stdin: Any) -> None:
    stdin(b"a\nb.png\0\0c.png\0")
    assert list(read_images(["-"], null=True)) == ["a\nb.png", "c.png"]


def test_dash_reads_texts_from_stdin(stdin: Any) -> None:
    stdin("grüne Katze\nnot \udcff UTF-8\n".encode("utf-8", "surrogateescape"))
    assert list(read_texts(["a cat", "-", "z"])) == ["a cat", "grüne Katze", "not \udcff UTF-8", "z"]


def test_stream_parts_are_yielded_as_they_arrive() -> None:
    trickle = Trickle(b"a\nb", b"c\n", b"d")
    parts = split_stream(io.BufferedReader(trickle), b"\n")
    assert next(parts) == b"a"
    assert trickle.chunks == [b"c\n", b"d"]
    assert list(parts) == [b"bc", b"d"]


def test_labels_file_is_split_into_stripped_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffKatze, grau\r\n\n  Hund \n# 1".encode())
    assert read_lines(path, "--labels-file", "label") == ["Katze, grau", "Hund", "# 1"]


@pytest.mark.parametrize(("content", "part"), [(b"\n \n", "holds no label"), (b"\xff\n", "cannot read")])
def test_empty_or_undecodable_labels_file_is_rejected(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(click.UsageError, match=f"--labels-file .*{part}"):
        read_lines(path, "--labels-file", "label")
