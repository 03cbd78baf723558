from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from tests.helpers.servers import ROOT
from tritonclip import InvalidInputError
from tritonclip._images.files import FORMAT_SUFFIXES, IMAGE_SUFFIXES, find_images

CONFIG = ROOT / "model_repository" / "image_preprocess" / "config.pbtxt"
TREE = [
    "a.jpg",
    "b/.hidden.jpg",
    "b/1.PNG",
    "b/10.webp",
    "b/2.gif",
    "b/c/deep.tiff",
    "b/c/notes.txt",
    "c.jpeg",
    "notes.txt",
    ".cache/x.jpg",
    "d[1]/y.jpg",
    "d1/z.jpg",
]
ALL = "a.jpg b/1.PNG b/10.webp b/2.gif b/c/deep.tiff c.jpeg d1/z.jpg d[1]/y.jpg".split()


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TREE:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "tree" / "nothing").mkdir()
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


def found(*patterns: str | os.PathLike[str]) -> list[str]:
    return [path.as_posix() for path in find_images(*patterns)]


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (["a.jpg"], ["a.jpg"]),
        (["notes.txt", "a.jpg", Path("a.jpg")], ["notes.txt", "a.jpg", "a.jpg"]),
        (["."], ALL),
        (["b/"], ["b/1.PNG", "b/10.webp", "b/2.gif", "b/c/deep.tiff"]),
        (["b/.hidden.jpg", "b/c"], ["b/.hidden.jpg", "b/c/deep.tiff"]),
        ([".cache"], [".cache/x.jpg"]),
        (["*.jp*g"], ["a.jpg", "c.jpeg"]),
        (["*"], [*ALL, "notes.txt"]),
        (["**"], ALL),
        (["b/**"], ["b/1.PNG", "b/10.webp", "b/2.gif", "b/c/deep.tiff"]),
        (["**/*.txt"], ["b/c/notes.txt", "notes.txt"]),
        (["**/c"], ["b/c/deep.tiff"]),
        (["**/b/**/*.tiff", "**/**/*.jpeg"], ["b/c/deep.tiff", "c.jpeg"]),
        (["**/*"], [*ALL, "notes.txt"]),
        (["b/?.*"], ["b/1.PNG", "b/2.gif"]),
        (["*/[!0-9]*"], ["b/c/deep.tiff", "d1/z.jpg", "d[1]/y.jpg"]),
        (["**/.*.jpg"], ["b/.hidden.jpg"]),
        ([".*/*"], [".cache/x.jpg"]),
        (["d[1]"], ["d[1]/y.jpg"]),
        (["d[1]/*"], ["d1/z.jpg"]),
        (["d[[]1]/*"], ["d[1]/y.jpg"]),
    ],
)
def test_patterns_find_the_expected_files(patterns: list[Any], wanted: list[str]) -> None:
    assert found(*patterns) == wanted


def test_absolute_pattern_finds_absolute_paths(tree: Path) -> None:
    assert found(tree / "b" / "*.gif", tree / "d1") == [f"{tree}/b/2.gif", f"{tree}/d1/z.jpg"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nope", "no such file or directory: 'nope'; check"),
        ("nope/a.jpg", "no such file or directory"),
        ("", "no such file or directory: ''"),
        ("nul\0", "no such file or directory"),
        ("nothing", "no image files in the directory 'nothing'; .*.avif .*one by one"),
        ("*.bmp", r"no file matches '\*.bmp'"),
        ("nope/*", "no file matches"),
        ("a.jpg/*", "no file matches"),
        ("a*/**", "no file matches"),
        (3, "expected a path or a pattern, got int"),
    ],
)
def test_pattern_without_files_raises_an_error_that_names_it(pattern: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        found("a.jpg", pattern)


def test_missing_path_is_rejected_before_the_first_file() -> None:
    with pytest.raises(InvalidInputError, match="nope"):
        find_images("a.jpg", "nope")
    with pytest.raises(InvalidInputError, match="nothing given"):
        find_images()


def test_links_are_followed_once_and_cycles_end(tree: Path) -> None:
    for name in ("b", "d1"):
        for target in ("b", "d1"):
            (tree / name / f"to_{target}").symlink_to(tree / target, target_is_directory=True)
    (tree / "b" / "c" / "up").symlink_to("..", target_is_directory=True)
    (tree / "d1" / "gone.jpg").symlink_to("nowhere.jpg")
    (tree / "d1" / "zz.jpg").symlink_to("../a.jpg")
    assert found("d1") == [
        *["d1/to_b/1.PNG", "d1/to_b/10.webp", "d1/to_b/2.gif", "d1/to_b/c/deep.tiff"],
        *["d1/z.jpg", "d1/zz.jpg"],
    ]
    assert len(found("**/*.jpg")) < 20


def test_directories_and_special_files_are_not_found(tree: Path) -> None:
    os.mkfifo(tree / "d1" / "pipe.jpg")
    (tree / "d1" / "folder.jpg").mkdir()
    assert found("d1") == ["d1/z.jpg"]


def test_directories_are_listed_lazily(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    paths = find_images(".")
    assert listed == []
    next(paths)
    assert listed == ["."]
    next(paths)
    assert listed == [".", "b"]


def test_unreadable_directory_raises_an_error_that_names_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = find_images("b")
    next(paths)
    for path in (tree / "b" / "c").iterdir():
        path.unlink()
    (tree / "b" / "c").rmdir()
    with pytest.raises(InvalidInputError, match="cannot list the directory 'b/c': No such file.*leave"):
        list(paths)


def test_suffixes_match_the_servers_accepted_formats() -> None:
    config = text_format.Parse(CONFIG.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    assert list(FORMAT_SUFFIXES) == config.parameters["image_formats"].string_value.split(",")
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in IMAGE_SUFFIXES} == set(FORMAT_SUFFIXES)
    assert all(known[suffix] == name for name, suffixes in FORMAT_SUFFIXES.items() for suffix in suffixes)
