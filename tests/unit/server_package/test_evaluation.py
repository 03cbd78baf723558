"""`tritonclip-server evaluate`: reading labelled images and templates, and the figures of the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritonclip_server.evaluation.data import DataError, LabelledImages, read_images, read_templates

if TYPE_CHECKING:
    from tritonclip_server.evaluation.predictions import Predictions

# The modules `predictions` and `report` take seconds to import, so only the tests of the report import them.


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_become_labels_in_order(tmp_path: Path):
    touch(tmp_path, "b/1.png", "a/2.JPG", "a/deep/1.jpg", "a/notes.txt", "c/notes.txt")
    data = read_images(tmp_path)
    assert data.labels == ("a", "b", "c")
    assert [path.name for path in data.paths] == ["2.JPG", "1.jpg", "1.png"]
    assert data.truth == (0, 0, 1)
    assert len(read_images(tmp_path, limit=1)) == 2


def test_names_file_selects_and_renames_classes(tmp_path: Path):
    touch(tmp_path, "n1/1.png", "n2/1.png", "n3/1.png")
    names = tmp_path / "names.json"
    names.write_text('{"n3": "a dog", "n1": "a cat", "n9": "a cow"}', encoding="utf-8")
    data = read_images(tmp_path, names)
    assert data.labels == ("a dog", "a cat", "a cow")
    assert [(path.parent.name, data.labels[n]) for path, n in zip(data.paths, data.truth, strict=True)] == [
        ("n3", "a dog"),
        ("n1", "a cat"),
    ]
    for text, message in (
        ('{"n1": "a", "n2": "a"}', "same label"),
        ('{"n1": "a"}', "at least two"),
        ('{"x": "a", "y": "b"}', "no images of the classes"),
        ('["n1"]', "expected an object"),
        ("{", "not valid JSON"),
    ):
        names.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_images(tmp_path, names)


def test_csv_file_gives_paths_and_labels(tmp_path: Path):
    touch(tmp_path, "1.png", "x/2.png")
    table_file = tmp_path / "data.csv"
    table_file.write_text("\ufefflabel,path,more\nb,1.png,\na,x/2.png,1\n", encoding="utf-8")
    data = read_images(table_file)
    assert data.labels == ("a", "b")
    assert data.paths == (tmp_path / "x/2.png", tmp_path / "1.png")
    for text, message in (
        ("file,label\n1.png,a\n", "columns path and label"),
        ("path,label\n1.png,a\nno.png,b\n", "line 3: no such file"),
        ("path,label\n1.png,\n", "line 2: the label is missing"),
        ("path,label\n1.png,a\n", "at least two"),
    ):
        table_file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_images(table_file)
    table_file.write_bytes(b"path,label\n\xff,a\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_images(table_file)


def test_missing_or_empty_data_is_rejected(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        read_images(tmp_path / "no")
    with pytest.raises(DataError, match="0 class"):
        read_images(tmp_path)
    touch(tmp_path, "a/x.txt", "b/y.txt")
    with pytest.raises(DataError, match="has no images$"):
        read_images(tmp_path)
    (tmp_path / "t").write_text("# nothing\n")
    with pytest.raises(DataError, match="contains no template"):
        read_templates(tmp_path / "t")


def predictions(best: list[int], labels: int, rejected: dict[int, str] | None = None) -> Predictions:
    from tritonclip_server.evaluation.predictions import Predictions

    scores = np.eye(labels, dtype=np.float32)[best]
    return Predictions(np.zeros((len(best), 2)), np.zeros((labels, 2)), scores, rejected or {})


def test_rejected_image_counts_as_wrong():
    from tritonclip_server.evaluation.report import Accuracy, class_rows, table

    data = LabelledImages(("a", "b", "c"), (Path("x"),) * 6, (0, 0, 0, 1, 1, 1))
    server = predictions([0, 0, 1, 1, 1, 0], 3, {5: "damaged"})
    reference = predictions([0, 0, 0, 1, 1, 1], 3)
    accuracy = Accuracy.of(server, data.truth)
    assert (accuracy.right, accuracy.images) == (4, 6)
    first, second, third = class_rows(data, server, reference)
    assert (first.precision, first.recall, first.images) == pytest.approx((1, 2 / 3, 3))
    assert (second.precision, second.recall) == pytest.approx((2 / 3, 2 / 3))
    assert (second.reference_precision, second.reference_recall) == (1, 1)
    assert (third.precision, third.images) == (0, 0)
    lines = table([first, second, third])
    assert len(lines) == 3  # a class without images is left out
    assert "66.7%" in lines[1]


@pytest.mark.parametrize(("right", "images"), [(817, 899), (0, 5), (5, 5), (1, 2)])
def test_confidence_interval_is_wilsons(right: int, images: int):
    from tritonclip_server.evaluation.report import Accuracy

    z, p = 1.959963984540054, right / images
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images**2))
    assert Accuracy(right, images).interval() == pytest.approx((max(0, middle - half), min(1, middle + half)))


def test_long_table_shows_classes_of_lowest_recall():
    from tritonclip_server.evaluation.report import class_rows, table

    data = LabelledImages(tuple(map(str, range(50))), (Path("x"),) * 50, tuple(range(50)))
    rows = class_rows(data, predictions([*range(49), 0], 50), predictions(list(range(50)), 50))
    lines = table(rows)
    assert len(lines) == 22
    assert lines[1].startswith("49 ")
    assert lines[-1] == "... and 30 classes of higher recall"
