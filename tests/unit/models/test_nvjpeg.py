"""The nvJPEG decoder without a GPU: choice of files, orientation, resizing and cropping with torch."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from clip_geometry import ProcessorSettings
from clip_images import ImageDecoder
from clip_nvjpeg import NvJpegDecoder, fit, load_nvjpeg, read_header
from tests.helpers.pictures import encode, noise, photos, turned, varied_images

CLIP = ProcessorSettings(resize=224, resample=3, crop=(224, 224))
LIMIT = 50_000_000
SUPPORTED = {"photo.jpg", "grey.jpg", *(f"exif_{turn}.jpg" for turn in range(2, 9))}
SUPPORTED.add("ycbcr.jpg")


DRAWN = {
    "photo": lambda: photos()[0],
    "enlarged": lambda: photos()[1].resize((90, 60)),
    "noise": lambda: noise(500, 350),
    "tall": lambda: noise(333, 777),
}
"""Functions that draw images, by name."""


def pillow(encoded, settings=CLIP):
    return ImageDecoder(settings, ("JPEG", "PNG"), LIMIT).decode(encoded)


def planes(image):
    return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


def decode_on_host(files):
    """Decode like nvJPEG: to RGB, not reoriented, and either all files or none."""
    return [planes(Image.open(io.BytesIO(file))) for file in files]


@pytest.fixture
def decoder():
    """Return a function that makes an NvJpegDecoder on the CPU and the list of its warnings."""

    def make(decode=decode_on_host, settings=CLIP):
        warnings = []
        return NvJpegDecoder(settings, LIMIT, decode, warnings.append), warnings

    return make


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as made:
        yield made


def test_only_baseline_jpegs_are_supported():
    supported = {name for name, file in varied_images().items() if read_header(file, CLIP, LIMIT)}
    assert supported == SUPPORTED


def test_jpeg_that_stores_rgb_is_left_to_pillow():
    photo = photos()[0]
    assert read_header(encode(photo, "JPEG", keep_rgb=False), CLIP, LIMIT)
    assert read_header(encode(photo, "JPEG", keep_rgb=True), CLIP, LIMIT) is None


def test_damaged_or_too_large_file_is_left_to_pillow():
    file = encode(photos()[0], "JPEG")
    assert read_header(file, CLIP, LIMIT).pixels == 640 * 427
    assert read_header(file[:-2], CLIP, LIMIT) is None
    assert read_header(file, CLIP, 640 * 427 - 1) is None
    assert read_header(b"", CLIP, LIMIT) is None
    assert read_header(b"\xff\xd8\xff\xd9", CLIP, LIMIT) is None


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(
    "settings",
    [
        CLIP,
        ProcessorSettings(224, 2, (224, 224)),
        ProcessorSettings((200, 260), 3, None),
        ProcessorSettings(200, 3, (224, 224)),
    ],
)
def test_resized_and_cropped_pixels_are_within_one_level_of_pillows(name, settings):
    image = DRAWN[name]()
    theirs = pillow(encode(image, "PNG", compress_level=1), settings).astype(int)
    ours = fit(planes(image), settings).numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
    difference = np.abs(ours - theirs)
    if name == "tall":  # from Pillow 13 on, some tall images are resized along the columns first
        assert (difference > 1).mean() < 0.02
    else:
        assert difference.max() <= 1


def test_crop_without_resizing_is_exact():
    settings = ProcessorSettings(None, 3, (300, 500))
    image = noise(401, 333)  # padded horizontally, cropped vertically
    np.testing.assert_array_equal(
        fit(planes(image), settings).numpy(), pillow(encode(image, "PNG"), settings)
    )


def test_results_are_upright_and_in_the_order_of_the_files(decoder, pool):
    files = varied_images()
    gpu, warnings = decoder()
    for name, found in zip(files, gpu.decode(list(files.values()), pool), strict=True):
        assert (found is not None) == (name in SUPPORTED)
        if found is not None:
            assert np.abs(found - pillow(files[name]).astype(int)).mean() < 0.5, name
    assert not warnings


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reorientation_is_exact(decoder, pool, orientation):
    file = turned(noise(40, 30), orientation)
    settings = ProcessorSettings(None, 3, (28, 28))
    gpu, _ = decoder(settings=settings)
    (found,) = gpu.decode([file], pool)
    np.testing.assert_array_equal(found, pillow(file, settings))


def test_file_that_fails_is_left_to_pillow_and_logged_once(decoder, pool):
    good, bad = encode(photos()[0], "JPEG"), encode(noise(64, 64), "JPEG")

    def fail_on_bad(files):
        if bad in files:
            raise RuntimeError("cannot decode this")
        return decode_on_host(files)

    gpu, warnings = decoder(fail_on_bad)
    found = gpu.decode([good, bad, b"no image", good, bad], pool)
    assert [pixels is not None for pixels in found] == [True, False, False, True, False]
    assert len(warnings) == 1
    assert "cannot decode this" in warnings[0]


def test_large_batch_is_split_into_calls(decoder, pool):
    calls = []

    def count(files):
        calls.append(len(files))
        return decode_on_host(files)

    gpu, _ = decoder(count, ProcessorSettings(None, 3, (8, 8)))
    assert all(pixels is not None for pixels in gpu.decode([encode(noise(30, 20), "JPEG")] * 150, pool))
    assert calls == [64, 64, 22]


def test_uncropped_sizes_may_differ(decoder, pool):
    gpu, _ = decoder(settings=ProcessorSettings(32, 3, None))
    found = gpu.decode([encode(noise(64, 48), "JPEG"), encode(noise(48, 64), "JPEG")], pool)
    assert [pixels.shape for pixels in found] == [(3, 32, 42), (3, 42, 32)]


def test_unsupported_resampling_is_rejected(decoder):
    with pytest.raises(ValueError, match="bilinear and bicubic"):
        decoder(settings=ProcessorSettings(224, 1, (224, 224)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_loading_without_a_gpu_fails():
    with pytest.raises((ImportError, RuntimeError, AssertionError)):
        load_nvjpeg(0)
