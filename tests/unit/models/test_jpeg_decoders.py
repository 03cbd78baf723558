"""Which decoder takes which JPEG, and that both give the same bytes and the same errors."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

import clip_images
import clip_jpeg
from clip_geometry import TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from clip_pillow import ImageError
from tests.helpers.odd_pictures import insert_segment
from tests.helpers.pictures import encode, noise, photos, turned, varied_image

CLIP = ProcessorSettings(resize=224, resample=3, crop=(224, 224), image_processor=TORCHVISION)
SIMPLEJPEG, PILLOW = "simplejpeg", "Pillow"


def photo(**options):
    return encode(photos()[0].resize((301, 203)), "JPEG", **options)


def rgb_jpeg():
    """Return a JPEG whose colours are RGB, as its Adobe marker says."""
    return encode(photos()[0].resize((301, 203)), "JPEG", keep_rgb=True)


def several_pictures():
    file = io.BytesIO()
    photos()[0].save(file, "MPO", save_all=True, append_images=[photos()[1]])
    return file.getvalue()


def with_xmp_turn():
    """Return a JPEG that only its XMP packet turns."""
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li tiff:Orientation="6"/></x:xmpmeta>'
    segment = b"http://ns.adobe.com/xap/1.0/\0" + packet
    return b"\xff\xd8\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + photo()[2:]


WAYS = {
    "YCbCr 4:2:0": (SIMPLEJPEG, partial(photo, subsampling=2)),
    "YCbCr 4:2:2": (SIMPLEJPEG, partial(photo, subsampling=1)),
    "YCbCr 4:4:4": (SIMPLEJPEG, partial(photo, subsampling=0)),
    "progressive": (SIMPLEJPEG, partial(photo, progressive=True)),
    "optimized": (SIMPLEJPEG, partial(photo, optimize=True, quality=30)),
    "restart markers": (SIMPLEJPEG, partial(photo, restart_marker_blocks=3)),
    "grey": (SIMPLEJPEG, lambda: encode(photos()[0].convert("L"), "JPEG")),
    "one pixel": (SIMPLEJPEG, lambda: encode(noise(1, 1), "JPEG")),
    "several pictures": (SIMPLEJPEG, several_pictures),
    "bytes behind it": (SIMPLEJPEG, lambda: photo() + b"\0" * 100_000),
    "turned by XMP": (SIMPLEJPEG, with_xmp_turn),
    **{f"turned {turn}": (SIMPLEJPEG, partial(turned, photos()[0], turn)) for turn in range(1, 9)},
    "RGB": (PILLOW, rgb_jpeg),
    "CMYK": (PILLOW, partial(varied_image, "cmyk.jpg")),
    "YCCK": (PILLOW, lambda: encode(photos()[0].convert("CMYK"), "JPEG", quality=80, subsampling=2)),
    "warning of libjpeg": (PILLOW, lambda: photo().replace(b"\xff\xda", b"\0\0\0\xff\xda", 1)),
    "PNG": (None, lambda: encode(photos()[0], "PNG")),
}
DAMAGED = {
    "no end": lambda: photo()[:-2],
    "half": lambda: photo()[: len(photo()) // 2],
    "header alone": lambda: photo()[:400],
    "no tables": lambda: photo().replace(b"\xff\xc4", b"\xff\xfe"),
    "garbage in the scan": lambda: photo()[:2000] + bytes(range(200)) * 4 + photo()[2800:],
    "no picture": lambda: b"\xff\xd8\xff" + b"\0" * 100,
    "Exif data that end": lambda: turned(photos()[0], 6).replace(b"\0\x01\x12"[1:], b"\xff\xff"),
}


@pytest.fixture
def reads(monkeypatch):
    """Record what simplejpeg answers: True for pixels, False where Pillow has to decode."""
    answers, read = [], clip_jpeg.JpegReader.read

    def recorded(self, *arguments):
        rgb = read(self, *arguments)
        answers.append(rgb is not None)
        return rgb

    monkeypatch.setattr(clip_jpeg.JpegReader, "read", recorded)
    return answers


def decode(encoded):
    return ImageDecoder(CLIP, ("JPEG", "PNG"), 10**8).decode(encoded)


def decode_by_pillow(encoded, monkeypatch):
    monkeypatch.setattr(clip_jpeg.JpegReader, "read", lambda *_: None)
    return decode(encoded)


@pytest.mark.parametrize("name", WAYS)
def test_both_decoders_give_the_same_bytes(name, reads, monkeypatch):
    way, make = WAYS[name]
    pixels = decode(make())
    assert reads == {SIMPLEJPEG: [True], PILLOW: [False], None: []}[way]
    np.testing.assert_array_equal(pixels, decode_by_pillow(make(), monkeypatch))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_jpeg_keeps_its_answer(name, monkeypatch):
    encoded, answers = DAMAGED[name](), []
    for function in (decode, partial(decode_by_pillow, monkeypatch=monkeypatch)):
        try:
            answers.append(function(encoded).tolist())
        except ImageError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_header_that_pillow_does_not_read_is_judged_as_pillow_would(mode, monkeypatch):
    decoder = ImageDecoder(CLIP, ("JPEG", "PNG"), 10**8)
    file = encode(noise(48, 40).convert(mode), "JPEG", comment=b"note", restart_marker_blocks=3)
    rest = file[:2] + file[20:]  # without the JFIF segment
    variants = [file, *(insert_segment(rest, 0xE0, b"JFIF\0\1\1\0\0"[:n]) for n in range(10))]
    for place in range(file.index(b"\xff\xda") + 14):
        for value in (0, 3, 128, file[place] ^ 1):
            variants.append(file[:place] + bytes([value]) + file[place + 1 :])

    def answer(encoded):
        try:
            return decoder.decode(encoded).tobytes()
        except ImageError as error:
            return str(error)

    bare = sum(clip_images.bare_jpeg_size(variant) is not None for variant in variants)
    answers = [answer(variant) for variant in variants]
    monkeypatch.setattr(clip_images, "bare_jpeg_size", lambda encoded: None)
    assert answers == [answer(variant) for variant in variants]
    assert len(variants) / 2 < bare < len(variants)


@pytest.mark.parametrize(
    "make",
    [
        several_pictures,
        with_xmp_turn,
        lambda: turned(photos()[0], 6),
        lambda: photo(progressive=True),
        lambda: photo(icc_profile=bytes(500)),
        rgb_jpeg,
    ],
    ids=["several pictures", "XMP", "Exif", "progressive", "profile", "Adobe"],
)
def test_jpeg_that_says_more_than_its_pixels_is_not_bare(make):
    assert clip_images.bare_jpeg_size(photo()) == (301, 203)
    assert clip_images.bare_jpeg_size(make()) is None


def test_bare_jpeg_is_refused_if_the_format_is_not_accepted():
    with pytest.raises(ImageError, match="is not an image in a format accepted here"):
        ImageDecoder(CLIP, ("PNG",), 10**8).decode(photo())


def test_bare_jpeg_over_the_limit_is_refused_by_its_size():
    with pytest.raises(ImageError, match="is too large: 301 x 203 pixels, the limit is 10000"):
        ImageDecoder(CLIP, ("JPEG",), 10_000).decode(photo())


def test_buffer_of_a_larger_picture_is_used_again():
    small, large = encode(noise(100, 80), "JPEG"), encode(noise(500, 400), "JPEG")
    reader = clip_jpeg.JpegReader()
    first = reader.read(large)
    assert first.shape == (400, 500, 3)
    again = reader.read(small)
    assert np.shares_memory(first, again)
    np.testing.assert_array_equal(again, np.asarray(Image.open(io.BytesIO(small)).convert("RGB")))


def test_buffer_of_a_huge_picture_is_not_kept(monkeypatch):
    monkeypatch.setattr(clip_jpeg, "KEPT_BYTES", 100 * 100 * 3)
    reader = clip_jpeg.JpegReader()
    first = reader.read(encode(noise(101, 100), "JPEG"))
    assert not np.shares_memory(first, reader.read(encode(noise(101, 100), "JPEG")))
