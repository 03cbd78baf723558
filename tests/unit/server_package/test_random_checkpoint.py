"""Random checkpoints: their sizes, and the versions that are prepared from them."""

import json

import pytest
import torch
from click.testing import CliRunner
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from tritonclip_server.repository.checkpoint import read_checkpoint
from tritonclip_server.repository.checkpoint_files import locate
from tritonclip_server.repository.prepare import main
from tritonclip_server.repository.random_checkpoint import ARCHITECTURES, write_random_checkpoint

NAME = "vit-b-32"


@pytest.fixture
def small(monkeypatch, small_architecture):
    """Make an architecture small; the parity tests serve it in its full size."""
    monkeypatch.setitem(ARCHITECTURES, NAME, small_architecture)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**ARCHITECTURES[name]))
    sizes = {"vit-b-32": 151_277_313, "vit-b-16": 149_620_737, "vit-l-14": 427_616_513}
    assert sum(tensor.numel() for tensor in model.parameters()) == sizes[name]


def test_transformers_loads_the_checkpoint(small, tmp_path):
    write_random_checkpoint(NAME, tmp_path)
    model = CLIPModel.from_pretrained(tmp_path)
    tokens = CLIPProcessor.from_pretrained(tmp_path)(text=["a cat"], return_tensors="pt")
    assert torch.isfinite(model.get_text_features(**tokens).pooler_output).all()
    content = read_checkpoint(locate(str(tmp_path)))
    assert content.logit_scale == pytest.approx(100, rel=1e-5)


def test_version_of_random_weights_is_marked_as_random(small, tmp_path):
    repository, kept = tmp_path / "models", tmp_path / "kept"
    options = ["--random", NAME, "--output", str(repository), "--keep-checkpoint", str(kept)]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    manifest = json.loads((repository / "vision_encoder" / "1" / "manifest.json").read_text())
    assert manifest["checkpoint"]["random"] is True
    assert manifest["checkpoint"]["source"] == f"random {NAME}"
    assert manifest["checkpoint"]["sha256"] == locate(str(kept)).sha256
    assert '"random_weights"' in (repository / "clip_zero_shot" / "config.pbtxt").read_text()
    assert "is up to date" in CliRunner().invoke(main, options).output


def test_same_seed_gives_the_same_weights(small, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_random_checkpoint(NAME, tmp_path / name, seed)
    one, again, other = (locate(str(tmp_path / name)).sha256 for name in ("one", "again", "other"))
    assert one == again != other
