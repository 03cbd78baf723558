"""Answers as lists, HTML and tables."""

from __future__ import annotations

import base64
import copy
import gc
import json
import pickle
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tritonclip import (
    InvalidInputError,
    MissingExtraError,
    PredictionBatch,
    Predictions,
    ServerUnavailableError,
    embeddings_to_arrow,
)
from tritonclip._answers.html import MAX_ROWS
from tritonclip._answers.predictions import answer, name_images
from tritonclip._calls.codec import rank

RANKED: list[Any] = [{"score": 0.75, "label": "a cat"}, {"score": 0.25, "label": "a dog"}]
MAX_URI_CHARS = 60_000
HOSTILE = '<script>alert("1")</script>'


def answer_of(image: object) -> Predictions:
    found = answer([Predictions(RANKED)], image, single=True)
    assert isinstance(found, Predictions)
    return found


def batch_of(*images: object) -> PredictionBatch:
    found = answer([Predictions(RANKED) for _ in images], list(images), single=False)
    assert isinstance(found, PredictionBatch)
    return found


def save(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    Image.new("RGB", size, "red").save(path)
    return path


def noise(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def uris(html: str) -> list[str]:
    return re.findall(r'src="(data:image/jpeg;base64,[^"]*)"', html)


def test_answers_are_equal_to_plain_lists() -> None:
    one, several = answer_of("cat.jpg"), batch_of("cat.jpg", "dog.jpg")
    assert one == RANKED and several == [RANKED, RANKED] and repr(one) == repr(RANKED)
    assert isinstance(one, list) and isinstance(several, list)
    assert json.dumps(one) == json.dumps(RANKED) and json.dumps(several) == json.dumps([RANKED, RANKED])
    assert pa.array(one).to_pylist() == RANKED


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copy_keeps_the_class_and_the_path(clone: Any) -> None:
    pixels = noise(4, 4)
    several = batch_of("cat.jpg", pixels)
    copied = clone(several)
    assert type(copied) is PredictionBatch and copied == several
    assert type(copied[0]) is Predictions and [one.input for one in copied] == ["cat.jpg", None]


def test_slice_keeps_the_class_and_the_path() -> None:
    assert type(batch_of("cat.jpg", "dog.jpg")[:1]) is PredictionBatch
    first = answer_of("cat.jpg")[:1]
    assert type(first) is Predictions and first == RANKED[:1] and first.input == "cat.jpg"


def test_ranking_gives_predictions() -> None:
    (ranked,) = rank(np.array([[0.25, 0.75]], np.float32), ["a dog", "a cat"], top_k=None, threshold=None)
    assert type(ranked) is Predictions and ranked == RANKED


def test_answer_knows_paths_and_urls_only(tmp_path: Path) -> None:
    path = save(tmp_path / "cat.png")
    url = "https://example.com/cat.jpg"
    with Image.open(path) as opened:
        inputs = [
            answer_of(image).input
            for image in (str(path), path, url, opened, "data:image/png;base64,AA", b"GIF", noise(2, 2))
        ]
    assert inputs == [str(path), str(path), url, str(path), None, None, None]


@pytest.mark.parametrize("image", [Image.new("RGB", (8, 8)), noise(8, 8)], ids=["PIL", "array"])
def test_answer_does_not_keep_an_image_alive(image: Any) -> None:
    own = image.copy()
    seen = weakref.ref(own)
    answers = batch_of(own, own)
    assert uris(answers._repr_html_())
    del own
    gc.collect()
    assert seen() is None
    assert "a cat" in answers._repr_html_() and not uris(answers._repr_html_())


def test_answer_does_not_keep_bytes_alive() -> None:
    content = bytes(1000)
    before = sys.getrefcount(content)
    kept = answer_of(content)
    assert sys.getrefcount(content) == before
    assert "a cat" in kept._repr_html_()


def test_html_shows_a_thumbnail_and_a_bar_per_label(tmp_path: Path) -> None:
    html = answer_of(save(tmp_path / "cat.png", (400, 200)))._repr_html_()
    (uri,) = uris(html)
    content = base64.b64decode(uri.partition(",")[2])
    (tmp_path / "thumbnail.jpg").write_bytes(content)
    with Image.open(tmp_path / "thumbnail.jpg") as thumbnail:
        assert thumbnail.format == "JPEG" and thumbnail.size == (160, 80)
    assert "75.0%" in html and 'style="width:25.0%' in html and "cat.png" in html


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_data_uri_of_any_image_is_small(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"noise{suffix}"
    Image.fromarray(noise(1000, 1000)).save(path)
    for image in (path, noise(700, 700), Image.fromarray(noise(700, 700))):
        for uri in uris(answer_of(image)._repr_html_()):
            assert 1000 < len(uri) < MAX_URI_CHARS


def test_thumbnail_has_no_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "private words"
    path = tmp_path / "cat.jpg"
    Image.new("RGB", (40, 30)).save(path, exif=exif, comment=b"private words")
    (uri,) = uris(answer_of(path)._repr_html_())
    assert b"private words" in path.read_bytes()
    assert b"private words" not in base64.b64decode(uri.partition(",")[2])


def test_labels_names_and_errors_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / HOSTILE
    path.parent.mkdir(parents=True)  # the slash of </script>
    save(tmp_path / "cat.png").rename(path)
    one = answer([Predictions([{"score": 1.0, "label": HOSTILE}])], path, single=True)
    failed = PredictionBatch([one, InvalidInputError(f"image 1: {HOSTILE}")])  # type: ignore[list-item]
    for html in (one._repr_html_(), failed._repr_html_()):
        assert "<script" not in html and "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;" in html
        assert uris(html) and "<img alt=" in html


def test_html_of_a_url_has_no_secrets_and_fetches_nothing() -> None:
    html = answer_of("https://me:word@example.com/cat.jpg?signature=secret")._repr_html_()
    assert "https://example.com/cat.jpg" in html
    assert "word" not in html.replace("word-", "") and "secret" not in html and "<img" not in html


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50)],
    ids=["gone", "empty", "text", "cut"],
)
def test_answer_is_displayed_without_the_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cat.png"
    if content is not None:
        path.write_bytes(content)
    html = answer_of(path)._repr_html_()
    assert "a cat" in html and not uris(html)


def test_html_of_many_is_cut() -> None:
    html = batch_of(*["cat.jpg"] * (MAX_ROWS + 1234))._repr_html_()
    assert html.count("<tr>") == MAX_ROWS and "and 1,234 more" in html
    labels: list[Any] = [{"score": 0.001, "label": str(place)} for place in range(1000)]
    assert "and 990 more" in Predictions(labels)._repr_html_()


def test_html_says_that_no_label_reached_the_threshold() -> None:
    assert "no label has a score" in Predictions()._repr_html_()


def test_tables_of_one_image() -> None:
    one = answer_of("cat.jpg")
    assert one.to_arrow().to_pylist() == [{"label": r["label"], "score": r["score"]} for r in RANKED]
    assert one.to_pandas().to_dict("records") == one.to_arrow().to_pylist()
    assert list(Predictions().to_pandas().columns) == ["label", "score"]
    assert str(Predictions().to_arrow().schema) == str(one.to_arrow().schema)


def test_tables_of_a_run_have_a_row_for_every_image() -> None:
    results = [Predictions(RANKED), ServerUnavailableError("image 1: gone"), Predictions()]
    name_images(results, ["cat.jpg", "dog.jpg", "cow.jpg"])  # type: ignore[arg-type]
    table = PredictionBatch(results).to_arrow()  # type: ignore[arg-type]
    assert table.to_pylist() == [
        {"image": 0, "input": "cat.jpg", "label": "a cat", "score": 0.75, "error": None},
        {"image": 0, "input": "cat.jpg", "label": "a dog", "score": 0.25, "error": None},
        {"image": 1, "input": None, "label": None, "score": None, "error": "gone"},
        {"image": 2, "input": "cow.jpg", "label": None, "score": None, "error": None},
    ]
    frame = PredictionBatch(results).to_pandas()  # type: ignore[arg-type]
    assert frame["image"].tolist() == [0, 0, 1, 2] and frame["score"].dtype == np.float64
    assert frame.isna().sum().to_dict() == {"image": 0, "input": 1, "label": 2, "score": 2, "error": 3}


def test_empty_batch_has_the_same_columns() -> None:
    empty, full = PredictionBatch(), batch_of("cat.jpg")
    assert empty.to_arrow().schema == full.to_arrow().schema
    assert list(empty.to_pandas().columns) == list(full.to_pandas().columns)


def test_name_that_is_not_utf8_becomes_an_escape() -> None:
    table = batch_of(Path("cat\udcff.jpg")).to_arrow()
    assert table["input"].to_pylist() == [r"cat\xff.jpg"] * 2


def test_plain_lists_become_predictions() -> None:
    batch = PredictionBatch(json.loads(json.dumps([RANKED, RANKED])))
    assert type(batch[0]) is Predictions and len(batch.to_pandas()) == 4


@pytest.mark.parametrize(("module", "extra"), [("pandas", "pandas"), ("pyarrow", "parquet")])
def test_missing_library_is_reported_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    one = answer_of("cat.jpg")
    with pytest.raises(MissingExtraError, match=rf"{module} is not installed.*tritonclip\[{extra}\]"):
        one.to_pandas() if module == "pandas" else one.to_arrow()


def test_embeddings_become_the_table_of_the_command() -> None:
    embeds = np.arange(6, dtype=np.float32).reshape(2, 3)
    table = embeddings_to_arrow(embeds, ["a", Path("b")])
    assert table.schema == pa.schema(
        [("input", pa.string()), ("embedding", pa.list_(pa.float32(), 3)), ("error", pa.string())]
    )
    assert table["embedding"].to_pylist() == embeds.tolist() and table["input"].to_pylist() == ["a", "b"]
    assert embeddings_to_arrow(iter(embeds)).drop("input") == table.drop("input")
    assert embeddings_to_arrow(embeds[:, ::2])["embedding"].to_pylist() == [[0, 2], [3, 5]]


def test_failed_input_has_an_embedding_of_nan() -> None:
    rows = [InvalidInputError("image 0: no such file"), np.ones(2, np.float32)]
    table = embeddings_to_arrow(rows)
    assert table["error"].to_pylist() == ["no such file", None]
    assert np.isnan(table["embedding"].to_pylist()[0]).all() and table["embedding"].to_pylist()[1] == [1, 1]


@pytest.mark.parametrize(
    ("embeds", "inputs", "expected"),
    [
        (np.ones(3, np.float32), None, r"shape \(3,\)|got \(3,\)"),
        (np.ones((2, 3), np.float32), ["a"], "got 1 names for 2 embeddings"),
        ([InvalidInputError("bad")], None, r"got \(1, 0\)"),
    ],
    ids=["one embedding", "names", "errors only"],
)
def test_malformed_embeddings_are_rejected(embeds: Any, inputs: Any, expected: str) -> None:
    with pytest.raises(InvalidInputError, match=expected):
        embeddings_to_arrow(embeds, inputs)
