"""`image_preprocess` alone, with two instances and its options for JPEGs."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clip_geometry import TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from tests.helpers.calls import bytes_tensor, infer
from tests.helpers.pictures import encode, photos, telling_images
from tests.helpers.servers import DEMO_CHECKPOINT

CLIP = ProcessorSettings(resize=224, resample=3, crop=(224, 224), image_processor=TORCHVISION)


@pytest.fixture(scope="module")
def optional(servers, prepare, tmp_path_factory):
    """A server with drafts and two instances."""
    settings = ("jpeg_draft=2", "threads=0", "instances=2", "max_batch_images=2")
    options = [part for each in settings for part in ("--set", f"image_preprocess.{each}")]
    models = tmp_path_factory.mktemp("alone")
    shutil.copytree(prepare(DEMO_CHECKPOINT, *options) / "image_preprocess", models / "image_preprocess")
    with servers.run(models, "options of image_preprocess that change its pixels") as running:
        yield running


def test_large_jpegs_are_drafted_and_small_ones_are_exact(optional):
    large = encode(photos()[0].resize((1367, 911), Image.Resampling.BICUBIC), "JPEG")
    small = telling_images()["photo.jpg"]
    files = [large, *telling_images().values()]
    pixels = infer(optional, "grpc", "image_preprocess", image=bytes_tensor(files))["pixel_values"][0]
    drafting = ImageDecoder(CLIP, ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"), 10**8, draft=2)
    np.testing.assert_array_equal(pixels, [drafting.decode(file) for file in files])
    exact = ImageDecoder(CLIP, ("JPEG",), 10**8)
    assert (pixels[0] != exact.decode(large)).any()
    np.testing.assert_array_equal(pixels[files.index(small)], exact.decode(small))


def test_batches_in_parts_answer_every_request(optional):
    images = [*list(telling_images().values())[:2], telling_images()["rgba.webp"]]
    alone = infer(optional, "grpc", "image_preprocess", image=bytes_tensor(images))["pixel_values"]

    def ask(number):
        start = number % 3
        files = bytes_tensor(images[start:])
        return start, infer(optional, "grpc", "image_preprocess", image=files)["pixel_values"]

    with ThreadPoolExecutor(16) as pool:
        for start, pixels in pool.map(ask, range(64)):
            np.testing.assert_array_equal(pixels, alone[:, start:])
