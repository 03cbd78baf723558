"""The client's preprocessing against the server's decoder."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_geometry import ProcessorSettings as ServerSettings
from clip_images import ImageDecoder
from tests.helpers.odd_pictures import ODD_PICTURES, odd_picture
from tests.helpers.pictures import EXIF_ORIENTATION, PICTURES, TELLING, encode, noise, photos, varied_image
from tritonclip import InvalidInputError, ModelNotReadyError
from tritonclip._images.fetch import Fetcher
from tritonclip._images.preprocess import ProcessorSettings, _formats, preprocess_image, preprocess_images
from tritonclip._images.sources import encode_image
from tritonclip.errors import MissingExtraError

SHAPES: dict[str, dict[str, Any]] = {
    "clip": {"resize": 224, "resample": 3, "crop": [224, 224], "convert_rgb": True},
    "fixed": {"resize": [160, 200], "resample": 2, "crop": None, "convert_rgb": False},
    "padded": {"resize": 100, "resample": 1, "crop": [145, 130], "convert_rgb": True},
    "tiny": {"resize": 20, "resample": 3, "crop": [20, 20], "convert_rgb": True},
    "nearest": {"resize": [31, 77], "resample": 0, "crop": [40, 40], "convert_rgb": True},
    "unresized": {"resize": None, "resample": 3, "crop": [225, 224], "convert_rgb": True},
}
SETTINGS = {
    name + suffix: {**shape, "image_processor": processor}
    for name, shape in SHAPES.items()
    for suffix, processor in (("", "torchvision"), (" by Pillow", "pillow"))
}
CLIP = ProcessorSettings.from_json(json.dumps(SETTINGS["clip"]))
MAX_PIXELS = 89478485


VERY_LONG = ["2000x3.png", "3x2000.png"]  # 224 x 149333 pixels once resized to 224


def decoder(kind: str) -> ImageDecoder:
    """Return the server's decoder with the settings of a kind."""
    formats = "JPEG PNG WEBP GIF BMP TIFF PPM AVIF HEIF".split()
    return ImageDecoder(ServerSettings.from_dict(SETTINGS[kind]), formats, MAX_PIXELS)


def opened(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, kind) for name in PICTURES if name not in VERY_LONG for kind in ("clip", "clip by Pillow")],
        *[(name, kind) for name in VERY_LONG for kind in ("tiny", "tiny by Pillow")],
        *[(name, kind) for name in TELLING for kind in SETTINGS if not kind.startswith(("clip", "tiny"))],
    ],
)
@pytest.mark.filterwarnings("ignore:image 0. has values from .* in mode I.16:UserWarning")
def test_pixels_equal_the_servers_pixels_bit_for_bit(name: str, kind: str, tmp_path: Path) -> None:
    encoded = varied_image(name)
    settings = ProcessorSettings.from_json(json.dumps(SETTINGS[kind]))
    path = tmp_path / name
    path.write_bytes(encoded)
    wanted = decoder(kind).decode(encoded)
    for form in (encoded, path, opened(encoded)):
        pixels = preprocess_image(form, 0, settings)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.parametrize("name", [name for name in ODD_PICTURES if "HEIF" in name or "AVIF" in name])
def test_heic_gives_the_servers_pixels_bit_for_bit(name: str) -> None:
    encoded = odd_picture(name)
    np.testing.assert_array_equal(preprocess_image(encoded, 0, CLIP), decoder("clip").decode(encoded))


@pytest.fixture
def _without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    _formats.cache_clear()
    yield
    _formats.cache_clear()


@pytest.mark.usefixtures("_without_heif")
def test_heic_without_the_extra_is_rejected_with_the_cure() -> None:
    with pytest.raises(
        InvalidInputError, match=r"^image 3: is a HEIC file, .*pip install \"tritonclip\[heif\]\" \(in "
    ):
        preprocess_image(odd_picture("HEIF RGB"), 3, CLIP)
    assert encode_image(odd_picture("HEIF RGB"), 3) == odd_picture("HEIF RGB")  # the server may read it


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("cut", [np.s_[:], np.s_[::-1, ::2], np.s_[:, :, 0], np.s_[:, :, [0, 1, 2, 0]]])
def test_array_gives_the_same_pixels_as_its_encoded_file(cut: Any, kind: str) -> None:
    array = np.asarray(noise(250, 240))[cut]
    settings = ProcessorSettings.from_json(json.dumps(SETTINGS[kind]))
    wanted = decoder(kind).decode(encode_image(array, 0))
    np.testing.assert_array_equal(preprocess_image(array, 0, settings), wanted)


@pytest.mark.parametrize("mode", "1 L LA P RGBA CMYK YCbCr LAB HSV I I;16 F".split())
def test_pil_image_is_not_modified_and_gives_the_same_pixels_as_its_file(mode: str) -> None:
    source = noise(250, 240)
    image = source.convert("L").convert("I").convert("I;16") if mode == "I;16" else source.convert(mode)
    image.getexif()[EXIF_ORIENTATION] = 6
    before, size = image.tobytes(), image.size
    wanted = decoder("clip").decode(encode_image(image, 0))
    np.testing.assert_array_equal(preprocess_image(image, 0, CLIP), wanted)
    assert (image.tobytes(), image.size, image.mode) == (before, size, mode)
    assert image.getexif()[EXIF_ORIENTATION] == 6


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16"])
def test_transparent_colour_gives_the_same_pixels_in_every_mode(mode: str) -> None:
    image = Image.new("I;16", (30, 20), 7) if mode == "I;16" else noise(30, 20).convert(mode)
    encoded = encode(image, "PNG", transparency=(255, 0, 0) if mode == "RGB" else 1)
    wanted = decoder("clip").decode(encoded)
    for form in (encoded, opened(encoded), encode_image(opened(encoded), 0)):
        np.testing.assert_array_equal(preprocess_image(form, 0, CLIP), wanted)


def test_palette_alpha_is_dropped_without_a_warning() -> None:
    palette = noise(30, 20).convert("P")
    encoded = encode(palette, "PNG", transparency=bytes([0, 128] * 128))
    wanted = preprocess_image(palette, 0, CLIP)
    for form in (encoded, opened(encoded), encode_image(opened(encoded), 0)):
        np.testing.assert_array_equal(preprocess_image(form, 0, CLIP), wanted)


def test_url_array_and_file_object_are_preprocessed_together() -> None:
    photo = varied_image("photo.jpg")
    url = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    one = preprocess_images([photo], CLIP)
    assert (one.shape, one.dtype) == ((1, 3, 224, 224), np.uint8)
    many = preprocess_images([url, noise(30, 40), io.BytesIO(photo)], CLIP, Fetcher().fetch)
    assert many.shape == (3, 3, 224, 224)
    np.testing.assert_array_equal(many[[0, 2]], np.concatenate([one, one]))


def test_images_of_different_sizes_are_rejected_without_a_crop() -> None:
    settings = ProcessorSettings(resize=50, resample=3, crop=None)
    assert preprocess_images([noise(100, 50), noise(200, 100)], settings).shape == (2, 3, 50, 100)
    with pytest.raises(InvalidInputError, match="^image 1: has 50 x 75 pixels but image 0 has 75 x 50"):
        preprocess_images([noise(60, 40), noise(40, 60)], settings)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has hardly any data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"hello", r"is not an image in a format accepted here \(JPEG, PNG"),
        (lambda: encode(photos()[0], "ICO"), "is not an image in a format accepted here"),
        (lambda: encode(photos()[0], "JPEG")[:5000], "PIL cannot decode it: .*truncated"),
        (lambda: encode(noise(400, 300), "PNG")[:5000], "PIL cannot decode it: "),
        (lambda: odd_picture("HEIF tiles")[:-50], "the HEIC file is truncated: it has .* bytes"),
        (lambda: odd_picture("HEIF tiles")[:50], "is not an image in a format accepted here .*HEIF"),
        (lambda: bomb(10_000, 10_000), "is too large: "),
        (lambda: bomb(30_000, 30_000), "is too large: "),
        (
            lambda: encode(Image.new("RGB", (30_000, 3)), "PNG"),
            "2240000 x 224 pixels once resized, the limit",
        ),
        (lambda: Image.new("L", (10_000, 9_000)), "10000 x 9000 pixels, the limit is 89478485"),
        (lambda: Image.new("RGB", (0, 3)), "no pixels"),
        (lambda: np.zeros((3, 0, 3), np.uint8), "no pixels"),
        (lambda: np.full((3, 4, 4), 1.5, np.float32), "expected floats from 0 to 1"),
        (lambda: b"", "the bytes are empty"),
        (lambda: "missing.jpg", "no such file"),
        (lambda: "http://127.0.0.1:1/a.jpg", "fetch it yourself"),
        (lambda: None, "got NoneType"),
    ],
)
def test_invalid_image_raises_an_error_with_its_index(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^image 1: .*{message}"):
        preprocess_images([noise(30, 30), make()], CLIP)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ProcessorSettings(224, 3, (224, 224), True, "torchvision")),
        ({"image_processor": "pillow", "resize": [3, 4], "crop": None}, ProcessorSettings((3, 4), 3, None)),
        (
            {"resize": None, "convert_rgb": False},
            ProcessorSettings(None, 3, (224, 224), False, "torchvision"),
        ),
    ],
)
def test_settings_are_read_from_json(change: dict[str, Any], expected: ProcessorSettings) -> None:
    assert ProcessorSettings.from_json(json.dumps(SETTINGS["clip"] | change)) == expected


def test_settings_of_servers_without_the_parameter_mean_pillow() -> None:
    assert ProcessorSettings.from_json(json.dumps(SHAPES["clip"])).image_processor == "pillow"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{}", "'resize' is missing"),
        ("[]", "list"),
        *[
            (json.dumps(SETTINGS["clip"] | change), reason)
            for change, reason in [
                ({"resize": 0}, "0 is not a size"),
                ({"resize": "224"}, "'224' is not a size"),
                ({"resize": True}, "True is not a size"),
                ({"resize": [224]}, "is not a size"),
                ({"crop": 224}, "224 is not a size"),
                ({"crop": [224, -1]}, "is not a size"),
                ({"resample": 17}, "17 is not a valid Resampling"),
                ({"convert_rgb": 1}, "convert_rgb is 1"),
                ({"image_processor": "vips"}, "image_processor 'vips' is unknown"),
            ]
        ],
    ],
)
def test_malformed_settings_raise_an_error_with_the_cure(text: str, reason: str) -> None:
    with pytest.raises(ModelNotReadyError, match=f"malformed .*{reason}.*tritonclip-server prepare"):
        ProcessorSettings.from_json(text)


def test_missing_torch_is_an_error_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"needs torch .*pip install torch.*image_processor=pillow"):
        preprocess_image(noise(30, 20), 0, CLIP)
    by_pillow = ProcessorSettings.from_json(json.dumps(SETTINGS["clip by Pillow"]))
    assert preprocess_image(noise(30, 20), 0, by_pillow).shape == (3, 224, 224)


def test_torch_that_lacks_the_resampling_is_an_error_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise NotImplementedError("lanczos")

    monkeypatch.setattr("torch.nn.functional.interpolate", lacking)
    with pytest.raises(MissingExtraError, match=r"torch .* cannot resize with BICUBIC, .*update torch"):
        preprocess_image(noise(30, 20), 0, CLIP)
