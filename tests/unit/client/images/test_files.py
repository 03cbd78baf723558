from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from clip_pillow import DEFAULT_FORMATS
from tests.helpers.servers import ROOT
from tritonclip import InvalidInputError
from tritonclip._images.files import FORMAT_SUFFIXES, IMAGE_SUFFIXES, find_images
from tritonclip._images.skipped import MAX_KINDS, SkippedCounts, SkippedFile, summarize_skipped

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
    return [path.as_posix() for path in find_images(*patterns, on_skip=lambda skipped: None)]


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


def test_first_directory_that_cannot_be_listed_raises_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid_listing(monkeypatch, "b")
    with pytest.raises(InvalidInputError, match="cannot list the directory 'b': Permission denied.*leave"):
        found("a.jpg", "b")


def test_directory_below_that_cannot_be_listed_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_listing(monkeypatch, "b/c")
    paths, all_skipped = searched("b", "d1")
    assert paths == ["b/1.PNG", "b/10.webp", "b/2.gif", "d1/z.jpg"]
    (skipped,) = (one for one in all_skipped if one.path != Path("b/.hidden.jpg"))
    assert (skipped.path, skipped.is_directory, skipped.suffix) == (Path("b/c"), True, "")
    assert skipped.reason == "directory that cannot be listed: Permission denied; make it readable"


def forbid_listing(monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    """Fail to list a directory, as the system does for users without the permission to read it."""
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if os.fspath(path) == directory:
            raise PermissionError(errno.EACCES, "Permission denied", directory)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)


def searched(*patterns: str) -> tuple[list[str], list[SkippedFile]]:
    """Return the images that are found, and the files that are skipped, sorted by path."""
    skipped: list[SkippedFile] = []
    paths = [path.as_posix() for path in find_images(*patterns, on_skip=skipped.append)]
    return paths, sorted(skipped, key=lambda one: one.path)


@pytest.mark.parametrize(
    ("name", "suffix", "part"),
    [
        ("x.PSD", ".psd", "format that is not supported; convert it to JPEG or PNG"),
        ("x.cr2", ".cr2", "camera raw; export it as JPEG"),
        ("x.DNG", ".dng", "camera raw"),
        ("x.svg", ".svg", "format that is not supported; convert it"),
        ("x.jxl", ".jxl", "format that is not supported"),
        ("x.tar.gz", ".gz", "archive; unpack it"),
        ("x.MOV", ".mov", "video; extract the frames"),
        ("x.jpg_large", ".jpg_large", "no suffix of an image; if it is one, name it"),
        ("x", "", "no suffix of an image"),
        ("x.jpg.crdownloading", "", "no suffix of an image"),
        (".x.jpg", ".jpg", "hidden; name it or give a pattern such as"),
    ],
)
def test_skipped_file_has_its_suffix_and_the_reason_with_a_cure(
    name: str, suffix: str, part: str, tree: Path
) -> None:
    (tree / "d1" / name).touch()
    paths, (skipped,) = searched("d1")
    assert paths == ["d1/z.jpg"]
    assert (skipped.path, skipped.suffix) == (Path("d1", name), suffix)
    assert skipped.may_be_image
    assert part in skipped.reason


@pytest.mark.parametrize("name", ["x.txt", "x.JSON", "x.jpg.xmp", "Thumbs.db", "README"])
def test_skipped_file_that_holds_no_picture_is_told_apart(name: str, tree: Path) -> None:
    (tree / "d1" / name).touch()
    _, (skipped,) = searched("d1")
    assert (skipped.may_be_image, skipped.reason) == (False, "not an image")


@pytest.mark.parametrize("name", [".DS_Store", "._z.jpg", ".notes.txt", ".cache/x.jpg"])
def test_hidden_file_that_is_no_image_and_hidden_directory_are_not_reported(name: str, tree: Path) -> None:
    (tree / "d1" / name).parent.mkdir(exist_ok=True)
    (tree / "d1" / name).touch()
    assert searched("d1") == (["d1/z.jpg"], [])


def test_special_file_and_links_to_nothing_and_to_themselves_are_skipped_alone(tree: Path) -> None:
    os.mkfifo(tree / "d1" / "pipe.jpg")
    (tree / "d1" / "gone.jpg").symlink_to("nowhere.jpg")
    (tree / "d1" / "loop.jpg").symlink_to("loop.jpg")
    paths, skipped = searched("d1")
    assert paths == ["d1/z.jpg"]
    assert [(one.path.name, one.reason.split(";")[0]) for one in skipped] == [
        ("gone.jpg", "link to nothing"),
        ("loop.jpg", "unreadable: Too many levels of symbolic links"),
        ("pipe.jpg", "pipe, socket or device"),
    ]


def test_heic_files_of_a_directory_are_found(tree: Path) -> None:
    for name in ("IMG_1.HEIC", "b.heif", "c.hif"):
        (tree / "nothing" / name).touch()
    assert searched("nothing") == (["nothing/IMG_1.HEIC", "nothing/b.heif", "nothing/c.hif"], [])


def test_file_that_a_pattern_does_not_match_is_not_skipped() -> None:
    assert searched("b/c/*.tiff") == (["b/c/deep.tiff"], [])


def test_files_below_a_linked_directory_are_skipped_once(tree: Path) -> None:
    (tree / "d1" / "x.psd").touch()
    (tree / "d1" / "up").symlink_to(".", target_is_directory=True)
    _, skipped = searched("d1")
    assert [one.path for one in skipped] == [Path("d1/x.psd")]


def test_search_without_callback_warns_at_its_end_about_files_that_may_be_images(tree: Path) -> None:
    for name in ("1.psd", "2.PSD", "3.cr2"):
        (tree / "b" / name).touch()
    with warnings.catch_warnings(record=True) as before_the_end:
        paths = find_images("b")
        next(paths)
    assert before_the_end == []
    with pytest.warns(
        UserWarning, match=r"^find_images: skipped 4 files: 2 .psd \(format.*\), 1 .cr2 \(camer"
    ):
        list(paths)
    assert list(find_images("c.jpeg", "b/c")) == [Path("c.jpeg"), Path("b/c/deep.tiff")]


def test_directory_of_skipped_files_only_raises_an_error_with_the_cure(tree: Path) -> None:
    (tree / "nothing" / "IMG_0001.PSD").touch()
    with pytest.raises(InvalidInputError, match=r"no image files .*; skipped 1 file: 1 .psd \(.*convert it"):
        found("nothing")


def test_counts_of_skipped_files_are_bounded_and_complete() -> None:
    counts = SkippedCounts()
    for number in range(2 * MAX_KINDS):
        counts.add(SkippedFile(path=Path(f"x.{number}"), reason="odd"))
    for number in range(3):
        counts.add(SkippedFile(path=Path(f"{number}.txt"), reason="not an image", may_be_image=False))
    kinds = counts.kinds()
    assert len(kinds) == MAX_KINDS + 1
    assert sum(kind.count for kind in kinds) == 2 * MAX_KINDS + 3
    summary = summarize_skipped(kinds)
    assert summary.startswith(
        f"skipped {2 * MAX_KINDS + 3} files: {MAX_KINDS + 3} other (no suffix of an image"
    )
    assert len(summary) < 500


def test_suffixes_match_the_servers_accepted_formats() -> None:
    config = text_format.Parse(CONFIG.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    assert config.parameters["image_formats"].string_value == "auto"
    assert list(FORMAT_SUFFIXES) == [*DEFAULT_FORMATS, "HEIF"]
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in IMAGE_SUFFIXES} == set(FORMAT_SUFFIXES)
    assert all(known[suffix] == name for name, suffixes in FORMAT_SUFFIXES.items() for suffix in suffixes)
