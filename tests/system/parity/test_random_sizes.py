"""Pixels of JPEGs of random sizes, turns and encodings, compared with transformers bit for bit."""

import io

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, CLIPImageProcessorPil
from transformers.image_utils import load_image

from clip_geometry import IMAGE_PROCESSORS, TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from tests.helpers.pictures import EXIF_ORIENTATION

COUNT = 200
"""Files per seed, for each of the slow tests."""
LONGEST_RATIO = 12


def random_jpeg(random: np.random.Generator) -> bytes:
    width, height = (int(edge) for edge in random.integers(1, 900, 2))
    width, height = min(width, LONGEST_RATIO * height), min(height, LONGEST_RATIO * width)
    coarse = random.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = int(random.integers(1, 9))
    file = io.BytesIO()
    (image.convert("L") if random.random() < 0.2 else image).save(
        file,
        "JPEG",
        exif=exif,
        quality=int(random.integers(20, 100)),
        subsampling=int(random.integers(0, 3)),
        progressive=bool(random.integers(0, 2)),
    )
    return file.getvalue()


@pytest.mark.parametrize("kind", IMAGE_PROCESSORS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 11))])
def test_jpegs_of_random_sizes_equal_transformers(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    processor = (CLIPImageProcessor if kind == TORCHVISION else CLIPImageProcessorPil)()
    decoder = ImageDecoder(ProcessorSettings(224, 3, (224, 224), image_processor=kind), ("JPEG",), 10**9)
    for number in range(COUNT if seed else COUNT // 5):
        file = random_jpeg(random)
        image = load_image(Image.open(io.BytesIO(file)))
        expected = processor([image], do_rescale=False, do_normalize=False, return_tensors="np").pixel_values
        np.testing.assert_array_equal(decoder.decode(file), expected[0], f"file {number} of seed {seed}")
