"""`tritonclip-server evaluate`: each stage that may differ, and the documented accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.evaluation import altered_checkpoint, differing_stages, run_evaluation, write_digits
from tests.helpers.pictures import noise
from tests.helpers.servers import DEMO_CHECKPOINT
from tests.helpers.variants import UNCOMPILED


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("evaluate") / "digits")


def test_different_text_tower_is_reported(server, digits: Path, tmp_path: Path):
    altered = altered_checkpoint(tmp_path / "altered", "text_projection.weight")
    done = run_evaluation(digits, altered, "--url", server.grpc_url, "--limit", 5)
    assert done.exit_code == 1, done.output
    assert differing_stages(done.stdout) == ["weights", "text tower"]


def test_different_tokenizer_is_reported(server, digits: Path, tmp_path: Path):
    """The tokenizer has only 20 merges, so it splits most words; several templates are in use."""
    (tmp_path / "templates.txt").write_text("# comment\na photo of {}\n\nThis is {}.\n", encoding="utf-8")
    settings = json.loads((DEMO_CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    settings["model"]["merges"] = settings["model"]["merges"][:20]
    altered = altered_checkpoint(tmp_path / "altered", tokenizer=json.dumps(settings))
    templates = ("--templates", tmp_path / "templates.txt", "--template", "the digit {}")
    done = run_evaluation(digits, altered, "--url", server.grpc_url, "--limit", 2, "--explain", *templates)
    assert done.exit_code in (0, 1), done.output
    assert "tokenizer" in differing_stages(done.stdout)
    assert "vision tower" not in differing_stages(done.stdout)
    assert "weights" not in differing_stages(done.stdout)
    assert "3 templates, averaged" in done.stdout
    assert "the numbers of tokens of 30 of 30 prompts differ, for example 'the digit " in done.stdout


def test_different_precision_and_jpeg_decoding_are_reported(servers, prepare, tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        noise(1600, 1200, seed=len(name)).save(tmp_path / "data" / name / "large.jpg")
    settings = ("vision_encoder.precision=bfloat16", "image_preprocess.jpeg_draft=1")
    settings += ("text_encoder.precision=float32",)
    options = [word for setting in settings for word in ("--set", setting)]
    repository = prepare(DEMO_CHECKPOINT, *options, *UNCOMPILED)
    with servers.run(repository, "bfloat16 for images only, JPEG draft mode") as server:
        done = run_evaluation(tmp_path / "data", DEMO_CHECKPOINT, "--url", server.grpc_url, "--explain")
    assert differing_stages(done.stdout) == ["preprocessing", "vision tower"], done.output
    assert "the server has image_processor torchvision, jpeg_draft 1" in done.stdout
    assert "the server has precision bfloat16" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("digits", 0.9), ("shapes", 0.95)])
def test_documented_accuracy_is_reached_with_repository_option(
    servers, demo_repository, tmp_path: Path, name: str, least: float
):
    from tritonclip_server.demo.evaluation_sets import make_task, write_folders

    servers.command("evaluate --repository")
    write_folders(make_task(name), tmp_path / name)
    options = ("--repository", demo_repository, "--output", tmp_path / "out", "--explain")
    done = run_evaluation(tmp_path / name, DEMO_CHECKPOINT, *options)
    assert done.exit_code == 0, done.output
    assert "- no stage differs" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["server"]["accuracy"] == report["transformers"]["accuracy"] >= least
