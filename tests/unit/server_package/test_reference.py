"""The reference of the torchvision processor on machines without torchvision."""

import importlib.util

import numpy as np
import pytest
from transformers import CLIPImageProcessor

from tests.helpers.pictures import noise
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip_server.repository.reference import Reference

SIZES = ((97, 61), (61, 97), (224, 224), (30, 200), (224, 500), (640, 480))
FORMS = {
    "CLIP": {},
    "nearest pixel": {"resample": 0},
    "Lanczos": {"resample": 1},
    "bilinear": {"resample": 2},
    "fixed size": {"size": {"height": 200, "width": 240}},
    "padded": {"size": {"shortest_edge": 99}, "crop_size": {"height": 224, "width": 149}},
}


@pytest.fixture
def _without_torchvision(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("_without_torchvision")
@pytest.mark.parametrize("form", FORMS)
def test_reference_without_torchvision_equals_that_of_torchvision(form, tmp_path):
    CLIPImageProcessor.from_pretrained(DEMO_CHECKPOINT, **FORMS[form]).save_pretrained(tmp_path)
    reference = Reference(DEMO_CHECKPOINT)
    reference.checkpoint = tmp_path
    processor = CLIPImageProcessor.from_pretrained(tmp_path)
    assert (reference.image_processor.backend, processor.backend) == ("pil", "torchvision")
    for size in SIZES:
        options = {"do_rescale": False, "do_normalize": False}
        expected = processor([noise(*size)], return_tensors="np", **options)["pixel_values"]
        np.testing.assert_array_equal(reference.pixel_values([noise(*size)], **options), expected)
