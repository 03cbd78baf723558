"""Decoding of the request groups of a batch."""

from functools import cache

import numpy as np
import pytest

from clip_batch import BatchDecoder, threads_per_instance
from clip_common.groups import Elements, RequestError
from clip_common.times import RejectedError
from clip_geometry import PILLOW, TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from clip_pillow import ImageError
from clip_work import WorkLimits
from tests.helpers.pictures import encode, noise

CROPPED = ProcessorSettings(resize=32, resample=3, crop=(24, 32), image_processor=TORCHVISION)
FIXED = ProcessorSettings(resize=(20, 30), resample=3, crop=None, image_processor=PILLOW)
UNCROPPED = ProcessorSettings(resize=32, resample=3, crop=None, image_processor=TORCHVISION)


@cache
def images():
    return [encode(noise(width, height), "PNG") for width, height in ((64, 48), (48, 64), (40, 40), (9, 70))]


@pytest.fixture
def batches():
    """Return a function that makes a BatchDecoder with three threads; the fixture closes them all."""
    made = []

    def make(settings, decode=None):
        decoder = ImageDecoder(settings, ("PNG",), 10**7)
        made.append(
            BatchDecoder(
                decode or (lambda file, out, work: decoder.decode(file, out)),
                settings.output_size,
                3,
                WorkLimits(10**7, 1.0),
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def alone(settings, image):
    return ImageDecoder(settings, ("PNG",), 10**7).decode(image)


@pytest.mark.parametrize(("settings", "size"), [(CROPPED, (24, 32)), (FIXED, (20, 30))])
def test_groups_decoded_together_equal_images_decoded_alone(batches, settings, size):
    groups = [
        Elements(images() * 3, (2, 6)),
        Elements(images()[:1], (1, 1)),
        Elements(images()[::-1], (1, 4)),
    ]
    outputs = batches(settings).run(groups)
    for group, output in zip(groups, outputs, strict=True):
        pixels = output["pixel_values"]
        assert pixels.shape == (*group.shape, 3, *size)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        expected = [alone(settings, image) for image in group.items]
        np.testing.assert_array_equal(pixels.reshape(-1, 3, *size), expected)


def test_invalid_image_fails_only_its_group(batches):
    groups = [
        Elements(images(), (1, 4)),
        Elements([images()[0], b"x", b""], (1, 3)),
        Elements([b"", b"x"], (2, 1)),
    ]
    good, second, rows = batches(CROPPED).run(groups)
    assert good["pixel_values"].shape == (1, 4, 3, 24, 32)
    assert isinstance(second, RequestError)
    assert str(second) == "image 1 is not an image in a format accepted here (PNG)"
    assert str(rows) == "image 0 of row 0 is empty: it has 0 bytes"


def test_uncropped_sizes_may_differ_between_groups(batches):
    square, wide = batches(UNCROPPED).run(
        [Elements(images()[2:3], (1, 1)), Elements(images()[:1] * 2, (1, 2))]
    )
    assert square["pixel_values"].shape == (1, 1, 3, 32, 32)
    assert wide["pixel_values"].shape == (1, 2, 3, 32, 42)


def test_uncropped_sizes_that_differ_within_a_group_are_rejected(batches):
    good, bad = batches(UNCROPPED).run([Elements(images()[:1], (1, 1)), Elements(images()[:2], (1, 2))])
    assert good["pixel_values"].shape == (1, 1, 3, 32, 42)
    assert isinstance(bad, RequestError)
    assert str(bad) == (
        "image 1 has 32 x 42 pixels, the first has 42 x 32, and this checkpoint does not crop; "
        "send them one by one"
    )


def test_images_after_an_invalid_one_are_not_decoded(batches):
    decoded = []

    def decode(file, out, work):
        decoded.append(file)
        raise ImageError("is damaged")

    (outcome,) = batches(CROPPED, decode=decode).run([Elements(images() * 50, (1, 200))])
    assert str(outcome) == "image 0 is damaged"
    assert len(decoded) <= 3  # the images that began at the same time


def test_lack_of_memory_is_said_as_that(batches):
    def decode(file, out, work):
        raise MemoryError

    (outcome,) = batches(CROPPED, decode=decode).run([Elements(images(), (1, 4))])
    assert isinstance(outcome, RejectedError)
    assert outcome.reason == "overload"
    assert str(outcome).startswith("overloaded: out of memory while decoding an image; retry later")


def test_request_with_too_many_pixels_is_rejected_alone(batches):
    def decode(file, out, work):
        work.take_pixels(6_000_000)
        return alone(CROPPED, file)

    large, small = batches(CROPPED, decode=decode).run(
        [Elements(images()[:2], (1, 2)), Elements(images()[:1], (1, 1))]
    )
    assert isinstance(large, RequestError)
    assert str(large).startswith("request too large: more than 10000000 pixels in all images")
    assert small["pixel_values"].shape == (1, 1, 3, 24, 32)


@pytest.mark.parametrize(
    ("groups", "cores", "threads"),
    [
        ([{"kind": "KIND_CPU", "count": 1, "gpus": []}], 16, 16),
        ([{"kind": "KIND_CPU", "count": 4}], 18, 4),
        ([{"kind": "KIND_CPU", "count": 2}, {"kind": "KIND_GPU", "count": 1, "gpus": [0, 1]}], 16, 4),
        ([{"kind": "KIND_CPU", "count": 8}], 2, 1),
    ],
)
def test_cores_are_divided_among_the_instances(groups, cores, threads):
    assert threads_per_instance(groups, cores) == threads
