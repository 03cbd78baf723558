"""Random checkpoints: their sizes, and the versions that are prepared from them."""

import json

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, pipeline

from tritonclip_server.repository.checkpoint import locate, read_checkpoint
from tritonclip_server.repository.random_checkpoint import ARCHITECTURES, write_random_checkpoint


def test_transformers_loads_the_full_size_checkpoint(random_checkpoint):
    classify = pipeline("zero-shot-image-classification", model=str(random_checkpoint))
    assert (
        sum(tensor.numel() for tensor in classify.model.parameters()) == 151_277_313
    )  # as openai/clip-vit-base-patch32
    content = read_checkpoint(locate(str(random_checkpoint)))
    assert content.logit_scale == pytest.approx(100, rel=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**ARCHITECTURES[name]))
    sizes = {"vit-b-32": 151_277_313, "vit-b-16": 149_620_737, "vit-l-14": 427_616_513}
    assert sum(tensor.numel() for tensor in model.parameters()) == sizes[name]


def test_version_of_random_weights_is_marked_as_random(prepare):
    repository = prepare("--random", "vit-b-32")
    manifest = json.loads((repository / "vision_encoder" / "1" / "manifest.json").read_text())
    assert manifest["checkpoint"]["random"] is True
    assert manifest["checkpoint"]["source"] == "random vit-b-32"
    assert '"random_weights"' in (repository / "clip_zero_shot" / "config.pbtxt").read_text()


def test_same_seed_gives_the_same_weights(random_checkpoint, tmp_path):
    write_random_checkpoint("vit-b-32", tmp_path)
    assert locate(str(tmp_path)).sha256 == locate(str(random_checkpoint)).sha256
