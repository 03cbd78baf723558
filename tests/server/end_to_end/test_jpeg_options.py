"""`image_preprocess` alone, with its options for JPEGs and two instances."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clip_geometry import ProcessorSettings
from clip_images import ImageDecoder
from tests.helpers.calls import bytes_tensor, infer
from tests.helpers.pictures import encode, photos, varied_images
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

CLIP = ProcessorSettings(resize=224, resample=3, crop=(224, 224))
LARGE = encode(photos()[0].resize((1367, 911), Image.Resampling.BICUBIC), "JPEG")


pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="nvJPEG may be had here")


@pytest.fixture(scope="module")
def optional(prepare, tmp_path_factory):
    """A server that was asked for drafts and for nvJPEG, which needs torchvision and a GPU."""
    settings = ("jpeg_draft=2", "jpeg_decoder=nvjpeg", "threads=0", "instances=2")
    options = [part for each in settings for part in ("--set", f"image_preprocess.{each}")]
    models = tmp_path_factory.mktemp("alone")
    shutil.copytree(
        prepare("scripts/demo/checkpoint", *options) / "image_preprocess", models / "image_preprocess"
    )
    with EmbeddedTriton(models, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as running:
        yield running


def test_drafts_are_taken_and_small_files_stay_exact(optional):
    files = [LARGE, *varied_images().values()]
    pixels = infer(optional, "grpc", "image_preprocess", image=bytes_tensor(files))["pixel_values"][0]
    drafting = ImageDecoder(CLIP, ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"), 10**8, draft=2)
    np.testing.assert_array_equal(pixels, [drafting.decode(file) for file in files])
    exact = ImageDecoder(CLIP, ("JPEG",), 10**8)
    assert (pixels[0] != exact.decode(LARGE)).any()
    small = varied_images()["photo.jpg"]
    np.testing.assert_array_equal(pixels[files.index(small)], exact.decode(small))


def test_without_nvjpeg_each_instance_says_so_and_pillow_decodes(optional):
    said = [
        line
        for line in optional.log
        if "jpeg_decoder 'nvjpeg' is not available, Pillow decodes JPEGs" in line
    ]
    assert len(said) == 2
