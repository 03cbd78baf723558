"""`tritonclip-server evaluate`: accuracy on the demo's digits and shapes, and the stages that differ."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.helpers.pictures import noise
from tests.helpers.servers import DEMO_CHECKPOINT, run_script
from tritonclip_server.demo.evaluation_sets import make_task, write_folders
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
