"""`tritonclip-server evaluate`: equal answers, different weights, and damaged images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.evaluation import altered_checkpoint, differing_stages, run_evaluation, write_digits
from tests.helpers.servers import DEMO_CHECKPOINT


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("evaluate") / "digits")


@pytest.mark.slow
def test_same_weights_give_equal_accuracy_and_no_difference(server, digits: Path, tmp_path: Path):
    options = ("--limit", 10, "--output", tmp_path / "out", "--explain", "--tolerance", 0)
    options += ("--template", "This is a photo of {}.", "--template", "a photo of the digit {}")
    done = run_evaluation(digits, DEMO_CHECKPOINT, "--url", server.grpc_url, *options)
    assert done.exit_code == 0, done.output
    assert "100 images, 10 labels, 2 templates, averaged" in done.stdout
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


@pytest.mark.slow
def test_different_weights_are_reported(server, digits: Path, tmp_path: Path):
    altered = altered_checkpoint(tmp_path / "altered", "visual_projection.weight")
    done = run_evaluation(digits, altered, "--url", server.grpc_url, "--limit", 5)
    assert done.exit_code == 1, done.output
    assert "do not agree within 1.0%" in done.stdout
    assert differing_stages(done.stdout) == ["weights", "vision tower"]
    assert "(sha256 63d29b26a7c9)" in done.stdout


@pytest.mark.slow
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
    done = run_evaluation(tmp_path / "data.csv", DEMO_CHECKPOINT, "--url", server.grpc_url, "--explain")
    assert f"{len(rows)} images, 9 labels, This is a photo of {{}}." in done.stdout, done.output
    assert "rejected images: 2 and 1" in done.stdout
    assert "rejected by the server only: 1 images, the first is picture.tga" in done.stdout
    assert done.exit_code == 1


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
    options = ("--url", server.grpc_url, "--limit", 1, *arguments)
    done = run_evaluation(digits, DEMO_CHECKPOINT, *options)
    (line,) = done.stderr.strip().splitlines()
    assert done.exit_code == 2
    assert line.startswith("error: ") and message in line
