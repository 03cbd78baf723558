"""JPEGs decoded at a reduced size: differences that are allowed, and those that are not."""

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

from clip_geometry import IMAGE_PROCESSORS, PILLOW, TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from clip_pillow import ImageError, draft_ratio
from tests.helpers.pictures import encode, photos, turned

CLIP = ProcessorSettings(resize=224, resample=3, crop=(224, 224))
UNCROPPED = ProcessorSettings(resize=(150, 200), resample=3, crop=None)
FORMATS = ("JPEG", "PNG")
BOTH = pytest.mark.parametrize("kind", IMAGE_PROCESSORS)


def decode(encoded, draft, kind=TORCHVISION, settings=CLIP, max_pixels=50_000_000):
    settings = replace(settings, image_processor=kind)
    return ImageDecoder(settings, FORMATS, max_pixels, draft).decode(encoded).astype(int)


@cache
def photo(width, height):
    return photos()[0].resize((width, height), Image.Resampling.BICUBIC)


def mean_difference(one, other):
    return np.abs(one - other).mean()


@pytest.mark.parametrize(("text", "ratio"), [("0", 0), ("0.0", 0), ("1", 1), ("2.5", 2.5)])
def test_valid_parameter_is_read_as_a_ratio(text, ratio):
    assert draft_ratio(text) == ratio


@pytest.mark.parametrize("text", ["", "no", "0.5", "-1", "inf", "nan"])
def test_invalid_parameter_is_rejected(text):
    with pytest.raises(ValueError, match=f"'jpeg_draft' must be 0 or a number of at least 1, not '{text}'"):
        draft_ratio(text)


@pytest.mark.parametrize(("size", "kind"), [((511, 427), TORCHVISION), ((895, 900), PILLOW)])
def test_jpeg_too_small_for_the_ratio_is_exact(size, kind):
    encoded = encode(photo(*size), "JPEG")
    np.testing.assert_array_equal(decode(encoded, 2, kind), decode(encoded, 0, kind))


@pytest.mark.parametrize(("size", "kind"), [((512, 520), TORCHVISION), ((896, 900), PILLOW)])
def test_jpeg_of_exactly_the_ratio_is_drafted(size, kind):
    encoded = encode(photo(*size), "JPEG")  # 7 eighths or a half of it are 448 = 2 x 224 wide
    assert (decode(encoded, 2, kind) != decode(encoded, 0, kind)).any()


def test_other_formats_are_exact():
    encoded = encode(photo(1000, 1000), "PNG", compress_level=1)
    np.testing.assert_array_equal(decode(encoded, draft=1), decode(encoded, draft=0))


@BOTH
@pytest.mark.parametrize(
    ("orientation", "size", "settings"),
    [
        *((orientation, (1367, 911), CLIP) for orientation in range(1, 9)),
        *((orientation, (911, 1367), UNCROPPED) for orientation in (1, 6)),
    ],
)
def test_drafted_image_of_odd_size_is_not_shifted(orientation, size, settings, kind):
    """Halves and quarters of odd edges are rounded up, which would shift the picture if ignored."""
    encoded = turned(photo(*size), orientation)
    exact = decode(encoded, 0, kind, settings)
    drafted = decode(encoded, 2, kind, settings)
    assert drafted.shape == exact.shape
    assert (drafted != exact).any()
    assert mean_difference(drafted, exact) < 1
    shifted = np.roll(exact, 1, axis=2)
    assert mean_difference(drafted, exact) < 0.2 * mean_difference(shifted, exact)


@BOTH
@pytest.mark.parametrize(("size", "ratio"), [((1987, 1490), 3), ((1380, 1841), 1), ((2307, 1730), 3)])
def test_every_edge_of_a_drafted_image_holds_the_picture(size, ratio, kind):
    encoded = encode(photo(*size).point(lambda value: 128 + value // 2), "JPEG")
    assert decode(encoded, ratio, kind).min() > 100  # a row that torch leaves out is black


@pytest.mark.parametrize(("mode", "kind"), [("L", TORCHVISION), ("L", PILLOW), ("CMYK", PILLOW)])
def test_grey_and_cmyk_jpegs_are_drafted(mode, kind):
    encoded = encode(photo(1600, 1200).convert(mode), "JPEG")
    assert 0 < mean_difference(decode(encoded, 2, kind), decode(encoded, 0, kind)) < 1


def test_jpeg_that_pillow_decodes_is_exact_with_the_torchvision_processor():
    encoded = encode(photo(1600, 1200).convert("CMYK"), "JPEG")
    np.testing.assert_array_equal(decode(encoded, 2), decode(encoded, 0))


@BOTH
def test_file_of_several_jpegs_is_drafted(kind):
    file = io.BytesIO()
    photo(1600, 1200).save(file, "MPO", save_all=True, append_images=[photo(100, 100)])
    assert 0 < mean_difference(decode(file.getvalue(), 2, kind), decode(file.getvalue(), 0, kind)) < 1


def test_pixel_limit_applies_to_the_full_size():
    encoded = encode(photo(1600, 1200), "JPEG")
    with pytest.raises(ImageError, match="is too large.*limit is 1900000"):
        decode(encoded, 2, max_pixels=1_900_000)


@BOTH
def test_nothing_is_drafted_without_resizing(kind):
    encoded = encode(photo(1600, 1200), "JPEG")
    settings = ProcessorSettings(None, 3, (224, 224))
    np.testing.assert_array_equal(decode(encoded, 1, kind, settings), decode(encoded, 0, kind, settings))


def test_truncated_jpeg_is_rejected_when_drafting():
    encoded = encode(photo(1600, 1200), "JPEG")
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(encoded[: len(encoded) // 2], 2)
