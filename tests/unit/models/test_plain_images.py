"""Which JPEGs and PNGs are decoded in the process of the model: those whose cost their pixels bound."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clip_geometry import ProcessorSettings
from clip_images import ImageDecoder
from clip_pillow import ImageError
from clip_plain import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS, has_more_scans, plain_pixels
from tests.helpers.odd_pictures import (
    HEIGHT,
    WIDTH,
    chunk,
    exif,
    insert_chunk,
    insert_segment,
    jpeg_with_preview,
    motion_photo,
    odd_picture,
    picture,
    raw_png,
)
from tests.helpers.pictures import encode, noise

PLAIN = [
    "JPEG quality 1",
    "JPEG progressive RGB",
    "JPEG progressive CMYK",
    "JPEG restart markers L",
    "JPEG Exif with a maker note",
    "JPEG profile in 4 segments",
    "JPEG preview",
    "JPEG pair",
    "JPEG motion photo",
    "JPEG bytes behind it",
    "PNG P",
    "PNG RGBA of 16 bits, interlaced",
    "PNG turned",
    "PNG turned by XMP",
    "PNG profile",
]
TO_WORKERS = [
    "JPEG 300 comments",
    "JPEG padding before a marker",
    "JPEG two Exif segments",
    "PNG 5000 pieces",
    "PNG turned, Exif in digits",
    "PNG compressed XMP",
    "PNG compressed text",
    "PNG frames",
    "WEBP lossless",
    "GIF grey",
    "BMP runs of 8 bits",
    "TIFF jpeg",
    "PPM P4",
    "AVIF",
    "HEIF RGB",
    "JPEG2000 RGB",
]


def jpeg():
    return encode(picture(), "JPEG")


def png():
    return encode(picture(), "PNG")


def directory(tags, value_bytes):
    """Build Exif data whose values overlap, so that Pillow would copy tags x value_bytes."""
    entries = [struct.pack(">HHII", 1000 + tag, 1, value_bytes, 8) for tag in range(tags)]
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", tags) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("name", PLAIN)
def test_usual_jpeg_or_png_is_plain(name):
    assert plain_pixels(odd_picture(name)) == WIDTH * HEIGHT


@pytest.mark.parametrize("name", TO_WORKERS)
def test_other_file_is_not_plain(name):
    assert plain_pixels(odd_picture(name)) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: insert_segment(jpeg(), 0xE1, b"Exif\0\0" + directory(4000, 50_000)),
        lambda: insert_segment(jpeg(), 0xE1, b"Exif\0\0" + directory(100, 50_000)),
        lambda: insert_segment(jpeg(), 0xE1, b"Exif\0\0MM\0*\0\0"),
        lambda: insert_segment(jpeg(), 0xE2, b"MPF\0" + directory(4000, 50_000)),
        lambda: jpeg()[:2] + b"\0" * 100 + jpeg()[2:],
        lambda: jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        lambda: jpeg().replace(b"\xff\xc0", b"\xff\xc9"),
        lambda: jpeg().replace(b"\xff\xc4", b"\xff\xc0\x00\x11\x08" + bytes(14) + b"\xff\xc4", 1),
        lambda: jpeg()[:2] + b"\xff\xfe\x00\x02" * MAX_SEGMENTS + jpeg()[2:],
        lambda: insert_chunk(png(), chunk(b"teSt") * MAX_CHUNKS),
        lambda: insert_chunk(png(), chunk(b"eXIf", directory(600, 1))),
        lambda: insert_chunk(png(), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 2),
        lambda: insert_chunk(png(), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))),
    ],
    ids=[
        "Exif that overlaps", "Exif of 5 MB", "Exif cut", "pictures that overlap", "junk", "12 bits",
        "arithmetic coding", "two frames", "segments", "chunks", "600 tags", "profiles", "compressed text",
    ],
)  # fmt: skip
def test_file_that_costs_more_than_its_pixels_is_not_plain(make):
    assert plain_pixels(make()) is None


@pytest.mark.parametrize(
    "make", [jpeg, png, jpeg_with_preview, lambda: encode(picture(), "PNG", exif=exif(6))]
)
def test_truncated_file_raises_nothing(make):
    file = make()
    for end in range(len(file)):
        assert plain_pixels(file[:end]) in (None, WIDTH * HEIGHT)


def test_damaged_file_raises_nothing():
    generator = np.random.default_rng(0)
    for file in (jpeg_with_preview(), png(), encode(picture(), "PNG", exif=exif(6))):
        for _ in range(500):
            damaged = bytearray(file)
            for place in generator.integers(0, min(len(file), 900), 3):
                damaged[place] = generator.integers(0, 256)
            assert plain_pixels(bytes(damaged)) is None or plain_pixels(bytes(damaged)) > 0


def test_size_of_a_plain_png_is_that_of_its_header():
    assert plain_pixels(raw_png(np.zeros((3, 5, 3), np.uint8), 8, 2)) == 15
    assert plain_pixels(raw_png(np.zeros((0, 5, 3), np.uint8), 8, 2)) is None


def repeated(size, scans):
    """Return a progressive JPEG that repeats its last scan."""
    encoded = encode(Image.new("L", size, 99), "JPEG", progressive=True)
    first = encoded.count(b"\xff\xda")
    last = encoded[encoded.rindex(b"\xff\xda") : -2]
    return encoded[:-2] + last * (scans - first) + encoded[-2:]


def test_scans_of_a_large_jpeg_are_limited_by_its_pixels():
    assert plain_pixels(repeated((2000, 2000), 50)) == 4_000_000
    assert plain_pixels(repeated((2000, 2000), 51)) is None
    assert plain_pixels(repeated((200, 200), 51)) == 40_000


def test_second_scan_of_a_sequential_jpeg_is_not_read():
    """The number of scans then needs no limit, and the file no search."""
    file = jpeg()
    scan = file[file.rindex(b"\xff\xda") : -2]
    repeated = file[:-2] + scan * 5000 + file[-2:]
    assert not has_more_scans(repeated)
    assert plain_pixels(repeated) == WIDTH * HEIGHT
    with pytest.raises(ImageError, match="truncated or damaged"):
        decoder = ImageDecoder(ProcessorSettings(32, 3, (32, 32)), ("JPEG",), 10**6)
        decoder.decode(repeated)


def test_scans_of_a_sequential_jpeg_with_one_colour_each_count():
    file = jpeg()
    start = file.rindex(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes(10)
    assert has_more_scans(file[:start] + scan * (MAX_SCANS + 1) + file[-2:])


def test_scans_behind_the_end_do_not_count():
    assert not has_more_scans(motion_photo(), 1)
    assert has_more_scans(repeated((64, 64), MAX_SCANS + 1))
    assert not has_more_scans(repeated((64, 64), MAX_SCANS) + b"\xff\xda\0\2" * 1000)


def test_scans_of_a_preview_do_not_count():
    noisy = encode(noise(64, 64), "JPEG")
    assert not has_more_scans(insert_segment(noisy, 0xE1, repeated((16, 16), MAX_SCANS + 50)))


def test_endless_segments_end_the_count():
    assert has_more_scans(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 10_000 + b"\xff\xda\x00\x02" * 200)
