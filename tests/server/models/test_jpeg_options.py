"""`image_preprocess` alone, with two instances and its options for JPEGs."""

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


pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="nvJPEG may be available here")


@pytest.fixture(scope="module")
def optional(prepare, tmp_path_factory):
    """A server with drafts and nvJPEG enabled, on a machine without the GPU that nvJPEG needs."""
    settings = ("jpeg_draft=2", "jpeg_decoder=nvjpeg", "threads=0", "instances=2")
    options = [part for each in settings for part in ("--set", f"image_preprocess.{each}")]
    models = tmp_path_factory.mktemp("alone")
    shutil.copytree(
        prepare("scripts/demo/checkpoint", *options) / "image_preprocess", models / "image_preprocess"
    )
    with EmbeddedTriton(models, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as running:
        yield running


def test_large_jpegs_are_drafted_and_small_ones_are_exact(optional):
    files = [LARGE, *varied_images().values()]
    pixels = infer(optional, "grpc", "image_preprocess", image=bytes_tensor(files))["pixel_values"][0]
    drafting = ImageDecoder(CLIP, ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"), 10**8, draft=2)
    np.testing.assert_array_equal(pixels, [drafting.decode(file) for file in files])
    exact = ImageDecoder(CLIP, ("JPEG",), 10**8)
    assert (pixels[0] != exact.decode(LARGE)).any()
    small = varied_images()["photo.jpg"]
    np.testing.assert_array_equal(pixels[files.index(small)], exact.decode(small))


def test_every_instance_warns_if_nvjpeg_is_not_available(optional):
    warnings = [
        line
        for line in optional.log
        if "jpeg_decoder 'nvjpeg' is not available, Pillow decodes JPEGs" in line
    ]
    assert len(warnings) == 2
