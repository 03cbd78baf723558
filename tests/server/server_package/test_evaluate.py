"""`tritonclip-server evaluate`: accuracy on the demo's digits and shapes, and the stages that differ."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.helpers.pictures import noise
from tests.helpers.servers import DEMO_CHECKPOINT, run_script
from tritonclip_server.demo.evaluation_sets import make_task, write_folders
from tritonclip_server.evaluation.data import DataError, LabelledImages, read_images, read_templates
from tritonclip_server.evaluation.predictions import Predictions
from tritonclip_server.evaluation.report import Accuracy, class_rows, table
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

STAGES = ("weights", "logit scale", "rejected", "preprocessing", "tokenizer", "vision tower", "text tower")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "digits"
    assert write_folders(make_task("digits"), folder) == 899
    return folder


@pytest.fixture
def altered_checkpoint(tmp_path: Path):
    """Copy the demo checkpoint, with a changed tensor or a changed tokenizer."""

    def alter(name: str = "", tokenizer: str | None = None) -> Path:
        checkpoint = tmp_path / "altered"
        shutil.copytree(DEMO_CHECKPOINT, checkpoint)
        if name:
            tensors = load_file(checkpoint / "model.safetensors")
            tensors[name] = tensors[name].flip(0).contiguous()
            save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            (checkpoint / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        return checkpoint

    return alter


def evaluate(images: Path, checkpoint: Path, url: str, *options: object):
    return run_script("evaluate.py", images, "--checkpoint", checkpoint, "--url", url, *options)


def differing_stages(output: str) -> list[str]:
    """Return the stages that the output reports as different."""
    lines = [line[2:] for line in output.splitlines() if line.startswith("- ")]
    return [stage for stage in STAGES if any(line.startswith(stage) for line in lines)]


def test_same_weights_give_equal_accuracy_and_no_difference(server, digits: Path, tmp_path: Path):
    options = ("--limit", 30, "--output", tmp_path / "out", "--explain", "--tolerance", 0)
    options += ("--template", "This is a photo of {}.", "--template", "a photo of the digit {}")
    done = evaluate(digits, DEMO_CHECKPOINT, server.grpc_url, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 images, 10 labels, 2 templates, averaged" in done.stdout
    assert "- no stage differs" in done.stdout
    assert "vision_encoder: precision float32" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["server"] == report["transformers"]
    assert 0.85 < report["server"]["accuracy"] < 0.97
    assert min(report["image_cosine"], report["label_cosine"]) > 0.999999
    with (tmp_path / "out" / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["recall"]) * int(row["images"]) for row in rows) == pytest.approx(
        report["server"]["right"]
    )
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert picture.width > 800


@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        ("visual_projection.weight", "vision tower"),
        pytest.param("text_projection.weight", "text tower", marks=pytest.mark.slow),
    ],
)
def test_different_weights_are_reported(server, digits: Path, altered_checkpoint, tensor: str, stage: str):
    done = evaluate(digits, altered_checkpoint(tensor), server.grpc_url, "--limit", 5)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "do not agree within 1.0%" in done.stdout
    assert differing_stages(done.stdout) == ["weights", stage]
    assert "(sha256 63d29b26a7c9)" in done.stdout


def test_different_tokenizer_is_reported(server, digits: Path, altered_checkpoint, tmp_path: Path):
    """The tokenizer has only 20 merges, so it splits most words; several templates are in use."""
    (tmp_path / "templates.txt").write_text("# comment\na photo of {}\n\nThis is {}.\n", encoding="utf-8")
    settings = json.loads((DEMO_CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    settings["model"]["merges"] = settings["model"]["merges"][:20]
    templates = ("--templates", tmp_path / "templates.txt", "--template", "the digit {}")
    options = ("--limit", 2, "--explain", *templates)
    done = evaluate(digits, altered_checkpoint(tokenizer=json.dumps(settings)), server.grpc_url, *options)
    assert done.returncode in (0, 1), done.stderr
    assert "tokenizer" in differing_stages(done.stdout)
    assert "vision tower" not in differing_stages(done.stdout)
    assert "weights" not in differing_stages(done.stdout)
    assert "3 templates, averaged" in done.stdout
    assert "the numbers of tokens of 30 of 30 prompts differ, for example 'the digit " in done.stdout


def test_different_precision_and_jpeg_decoding_are_reported(prepare, tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        noise(1600, 1200, seed=len(name)).save(tmp_path / "data" / name / "large.jpg")
    settings = ("--set", "vision_encoder.precision=bfloat16", "--set", "image_preprocess.jpeg_draft=1")
    repository = prepare(
        DEMO_CHECKPOINT,
        *settings,
        "--set",
        "text_encoder.precision=float32",
        "--set",
        "vision_encoder.compile=off",
    )
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        done = evaluate(tmp_path / "data", DEMO_CHECKPOINT, server.grpc_url, "--explain")
    assert differing_stages(done.stdout) == ["preprocessing", "vision tower"], done.stdout + done.stderr
    assert "the server has jpeg_draft 1, jpeg_decoder pillow" in done.stdout
    assert "the server has precision bfloat16" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("digits", 0.9), ("shapes", 0.95)])
def test_documented_accuracy_is_reached_with_repository_option(
    prepare, tmp_path: Path, name: str, least: float
):
    write_folders(make_task(name), tmp_path / name)
    repository = prepare(DEMO_CHECKPOINT, "--precision", "float32")
    options = ("--repository", repository, "--output", tmp_path / "out", "--explain")
    done = run_script("evaluate.py", tmp_path / name, "--checkpoint", DEMO_CHECKPOINT, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "- no stage differs" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["server"]["accuracy"] == report["transformers"]["accuracy"] >= least


def test_damaged_images_count_as_wrong_and_rejections_of_one_side_are_reported(
    server, digits: Path, tmp_path: Path
):
    """The server rejects TGA, which transformers reads."""
    rows = [(path, path.parent.name) for path in sorted(digits.glob("*/*.png"))[::90]]
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.open(rows[0][0]).save(tmp_path / "picture.tga")
    rows += [(tmp_path / "broken.png", "one"), (tmp_path / "picture.tga", rows[0][1])]
    with (tmp_path / "data.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    done = evaluate(tmp_path / "data.csv", DEMO_CHECKPOINT, server.grpc_url, "--explain")
    assert f"{len(rows)} images, 9 labels, This is a photo of {{}}." in done.stdout, done.stderr
    assert "rejected images: 2 and 1" in done.stdout
    assert "rejected by the server only: 1 images, the first is picture.tga" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "127.0.0.1:1"), "127.0.0.1:1"),
        (("--template", "no braces"), "exactly one plain {}"),
        (("--checkpoint", "scripts/demo/images"), "has no weights"),
        (("--repository", "no/such"), "no/such"),
    ],
)
def test_invalid_option_exits_with_2_and_one_line(
    digits: Path, arguments: tuple[str, str], message: str, server
):
    given = ("--checkpoint", DEMO_CHECKPOINT, "--url", server.grpc_url, "--limit", 1, *arguments)
    done = run_script("evaluate.py", digits, *given)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert message in done.stderr


# Tests without a server.


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
    scores = np.eye(labels, dtype=np.float32)[best]
    return Predictions(np.zeros((len(best), 2)), np.zeros((labels, 2)), scores, rejected or {})


def test_rejected_image_counts_as_wrong():
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
    z, p = 1.959963984540054, right / images
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images**2))
    assert Accuracy(right, images).interval() == pytest.approx((max(0, middle - half), min(1, middle + half)))


def test_long_table_shows_classes_of_lowest_recall():
    data = LabelledImages(tuple(map(str, range(50))), (Path("x"),) * 50, tuple(range(50)))
    rows = class_rows(data, predictions([*range(49), 0], 50), predictions(list(range(50)), 50))
    lines = table(rows)
    assert len(lines) == 22
    assert lines[1].startswith("49 ")
    assert lines[-1] == "... and 30 classes of higher recall"
