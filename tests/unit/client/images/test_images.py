from __future__ import annotations

import io
import os
import re
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.helpers.pictures import EXIF_ORIENTATION
from tritonclip import InvalidInputError
from tritonclip._images.fetch import Fetcher
from tritonclip._images.sources import (
    MAX_FILE_BYTES,
    WEBP_MAX_SIDE_PX,
    as_images,
    encode_image,
    encode_images,
)

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_files_and_bytes_are_sent_unchanged(tmp_path: Path) -> None:
    content = b"any bytes\0\0"
    path = tmp_path / "ein bild.jpg"
    path.write_bytes(content)
    given = [path, str(path), content, bytearray(content), memoryview(content), np.bytes_(content)]
    result = encode_images(given)
    assert result == [content] * 6
    assert {type(item) for item in result} == {bytes}


def test_binary_files_are_read_from_their_position_and_stay_open(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("member", b"content")
    with (
        zipfile.ZipFile(path).open("member") as member,
        path.open("rb", buffering=0) as raw,
        tempfile.SpooledTemporaryFile() as spooled,
    ):
        spooled.write(b"a header, content")
        spooled.seek(10)
        memory = io.BytesIO(b"content")
        files = [member, raw, spooled, memory]
        assert encode_images(files) == [b"content", path.read_bytes(), b"content", b"content"]
        assert not any(file.closed for file in files)  # type: ignore[attr-defined]


def test_urls_are_fetched() -> None:
    fetch = Fetcher(max_bytes=5).fetch
    assert encode_images(["data:,hello", b"x"], fetch) == [b"hello", b"x"]
    assert encode_image("DATA:,hello", 0, fetch) == b"hello"
    with pytest.raises(InvalidInputError, match="^image 1: 'data:,hello!' is larger than 5 bytes"):
        encode_images([b"x", "data:,hello!"], fetch)


class GivesNothing:
    def read(self) -> None:
        """Return None, as a non-blocking raw file does."""


def test_single_image_is_distinguished_from_a_sequence() -> None:
    assert as_images(b"x") == ([b"x"], True)
    assert as_images([b"x"]) == ([b"x"], False)
    assert as_images((b"x", b"y")) == ((b"x", b"y"), False)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "I;16", "YCbCr", "F"])
def test_pil_image_is_sent_in_rgb_and_not_modified(mode: str) -> None:
    source = Image.fromarray(RGB)
    image = source.convert("L").convert("I").convert("I;16") if mode == "I;16" else source.convert(mode)
    before = image.tobytes()
    np.testing.assert_array_equal(pixels(encode_image(image, 0)), np.asarray(image.convert("RGB")))
    assert image.tobytes() == before


SWAPPED = RGB.swapaxes(0, 1)
UPRIGHT = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: SWAPPED,
    6: SWAPPED[:, ::-1],
    7: SWAPPED[::-1, ::-1],
    8: SWAPPED[::-1],
}
"""Pixels of the upright image by the EXIF orientation that is stored with `RGB`.

Source: EXIF 2.3, tag 0x0112.
"""


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_once(orientation: int) -> None:
    stored = Image.open(io.BytesIO(encoded(Image.fromarray(RGB), exif=orientation_tag(orientation))))
    content = encode_image(stored, 0)
    np.testing.assert_array_equal(pixels(content), UPRIGHT[orientation])
    with Image.open(io.BytesIO(content)) as sent:  # the server applies orientation tags, so it must find none
        assert EXIF_ORIENTATION not in sent.getexif()


def orientation_tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("width", [17, WEBP_MAX_SIDE_PX + 1])
def test_metadata_of_pil_images_is_not_sent(width: int) -> None:
    image = Image.new("RGB", (width, 1), (1, 2, 3))
    plain = encode_image(image, 0)
    image.info["icc_profile"] = b"profile" * 1000
    assert encode_image(image, 0) == plain
    assert "icc_profile" in image.info


def test_transparent_colour_is_sent_for_the_server_to_make_it_white() -> None:
    image = Image.fromarray(RGB)
    image.info["transparency"] = tuple(int(value) for value in RGB[0, 0])
    content = encode_image(image, 0)
    np.testing.assert_array_equal(pixels(content), RGB)
    with Image.open(io.BytesIO(content)) as sent:
        assert sent.info["transparency"] == image.info["transparency"]


@pytest.mark.parametrize("shape", [(13, 17), (13, 17, 3), (13, 17, 4), (1, 1, 3)])
def test_arrays_keep_every_pixel(shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    wanted = np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array[:, :, :3]
    np.testing.assert_array_equal(pixels(encode_image(array, 0)), wanted)


def test_non_contiguous_array_is_encoded() -> None:
    array = RGB[::-1, ::2]
    np.testing.assert_array_equal(pixels(encode_image(array, 0)), array)


@pytest.mark.parametrize("side", [WEBP_MAX_SIDE_PX, WEBP_MAX_SIDE_PX + 1])
def test_image_too_large_for_webp_is_encoded_as_png(side: int) -> None:
    array = RNG.integers(0, 256, (1, side, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(encode_image(array, 0)), array)


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (RGB.transpose(2, 0, 1), r"channels last: array\.transpose\(1, 2, 0\)"),
        (RGB[None], "list"),
        (RGB[:, :, :2], "shape"),
        (RGB[:, :, :1], r"use array\[:, :, 0\]"),
        (RGB[None, :, :, 0], r"use array\[0\]"),
        (RGB[0, 0], "shape"),
        (RGB[:0], "no pixels"),
        (RGB.astype(np.complex64), "got complex64"),
        (RGB.astype(str), "uint8, bool, uint16 or floats"),
        (np.where(np.arange(17) == 5, np.nan, RGB[:, :, 0] / 255), r"the array's value at \[0, 5\] is nan"),
        (np.where(RGB == RGB[2, 1, 0], np.inf, RGB / 255), r"is inf; expected numbers from 0 to 1"),
    ],
)
def test_invalid_array_is_rejected_with_a_hint(array: npt.NDArray[Any], hint: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^image 1: .*{hint}"):
        encode_images([b"x", array])


ALL_VALUES = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "uint16", ">u2"])
def test_array_whose_white_is_known_has_the_pixels_of_its_uint8_form(dtype: str, alpha: bool) -> None:
    grey = np.dstack([ALL_VALUES] * 4) if alpha else ALL_VALUES
    array = grey.astype(np.uint16) * 257 if dtype.endswith(("16", "u2")) and "u" in dtype else grey / 255
    np.testing.assert_array_equal(pixels(encode_image(array.astype(dtype), 0)), pixels(encode_image(grey, 0)))


def test_uint16_values_are_rounded_to_the_nearest_uint8() -> None:
    values = np.array([[0, 128, 129, 385, 386, 65_406, 65_407, 65_535]], np.uint16)
    assert pixels(encode_image(values, 0))[0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


def test_true_is_white() -> None:
    assert pixels(encode_image(np.array([[True, False]]), 0))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("dtype", ["uint16", "int64"])
def test_black_array_is_accepted_as_uint16_but_not_as_another_integer(dtype: str) -> None:
    array = np.zeros((2, 2), dtype)
    if dtype == "uint16":
        assert not pixels(encode_image(array, 0)).any()
    else:
        with pytest.raises(InvalidInputError, match="which value is white"):
            encode_image(array, 0)


@pytest.mark.parametrize(
    ("array", "black", "white"),
    [
        (ALL_VALUES.astype(np.float32), 0, 255),
        (ALL_VALUES / np.float32(127.5) - 1, -1, 1),
        ((ALL_VALUES.astype(np.int16) - 128).astype(np.int8), -128, 127),
        (ALL_VALUES.astype(np.int16) * 16, 0, 255 * 16),
        (ALL_VALUES.astype(np.int64), 0, 255),
        (ALL_VALUES.astype(np.uint16), 0, 255),
        (ALL_VALUES.astype(np.uint32) * 1000 + 7, 7, 255_007),
        (ALL_VALUES / 255 * 1.5 - 0.25, -0.25, 1.25),
    ],
)
def test_advised_expression_gives_the_pixels_that_were_meant(
    array: npt.NDArray[Any], black: float, white: float
) -> None:
    with pytest.raises(InvalidInputError, match="^image 0: .*; use ") as caught:
        encode_image(array, 0)
    known = {"np": np, "array": array, "black": black, "white": white}
    advised = re.findall(r"np\.clip\(.*, 0, 1\)|array\.astype\(np\.uint8\)", caught.value.message)
    assert advised
    for expression in advised:
        np.testing.assert_array_equal(pixels(encode_image(eval(expression, known), 0))[:, :, 0], ALL_VALUES)


def test_array_that_may_have_12_bits_is_sent_with_a_warning_whose_shift_is_right() -> None:
    array = ALL_VALUES.astype(np.uint16) << 4  # white is 4080 of 4095
    with pytest.warns(UserWarning, match=r"^image 0: its uint16 values reach 4080 only.* array << 4$"):
        assert pixels(encode_image(array, 0)).max() == 16
    np.testing.assert_allclose(pixels(encode_image(array << 4, 0))[:, :, 0], ALL_VALUES, atol=1)


@pytest.mark.parametrize(
    ("image", "part"),
    [
        (Image.fromarray(ALL_VALUES.astype(np.uint16) * 257), "0 to 65535 in mode I;16"),
        (Image.fromarray(ALL_VALUES.astype(np.int32) - 1), "-1 to 254 in mode I,"),
        (Image.fromarray((ALL_VALUES / 255).astype(np.float32)), "0 to 1 in mode F"),
    ],
)
def test_pil_image_that_rgb_clips_is_sent_with_a_warning(image: Image.Image, part: str) -> None:
    with pytest.warns(UserWarning, match=f"^image 0: has values from {part}"):
        content = encode_image(image, 0)
    np.testing.assert_array_equal(pixels(content), np.asarray(image.convert("RGB")))


def test_tensor_is_rejected_with_the_call_that_makes_an_array() -> None:
    class Tensor:
        def __array__(self) -> npt.NDArray[np.uint8]:
            return RGB

    with pytest.raises(InvalidInputError, match=r"got Tensor; give it as np\.asarray\(image\)"):
        encode_image(Tensor(), 0)


def test_invalid_input_raises_an_error_with_its_index(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    broken = Image.open(io.BytesIO(encoded(Image.fromarray(RGB))[:60]))
    closed = io.BytesIO(b"content")
    closed.close()
    for wrong, part in [
        (tmp_path / "missing.jpg", "no such file.*missing.jpg"),
        (str(tmp_path), "is a directory"),
        (empty, "is empty"),
        (b"", "empty"),
        (bytearray(), "empty"),
        ("nul\0.jpg", "cannot read"),
        ("https://example.com/cat.jpg", "fetch it yourself"),
        ("data:image/png;base64,AAAA", "fetch it yourself"),
        (Image.new("RGB", (0, 3)), "no pixels"),
        (broken, "cannot decode"),
        (io.BytesIO(), "the file object is empty or at its end"),
        (io.StringIO("text"), "text mode; give a binary file"),
        (closed, "cannot read the file object: .*closed"),
        (GivesNothing(), "returned NoneType instead of bytes"),
        (None, "got NoneType"),
        (3, "got int"),
        ([b"x"], "got list"),
        ((b"x" for _ in range(1)), "got generator.*list or tuple"),
    ]:
        with pytest.raises(InvalidInputError, match=f"^image 2: .*{part}"):
            encode_images([b"x", b"y", wrong])


def test_pipe_that_nobody_writes_to_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InvalidInputError, match="^image 0: the file .*a.jpg' is empty"):
        encode_image(tmp_path / "a.jpg", 0)


def test_pipe_is_read_to_its_end() -> None:
    content = bytes(range(256)) * 2000  # more than a pipe holds at once
    end, start = os.pipe()
    with open(start, "wb") as pipe, ThreadPoolExecutor(1) as pool:
        result = pool.submit(encode_image, f"/dev/fd/{end}", 0)
        pipe.write(content)
        pipe.close()
        assert result.result() == content
    os.close(end)


def test_device_is_rejected_unread() -> None:
    with pytest.raises(InvalidInputError, match="^image 0: '/dev/zero' is a device; give an image file"):
        encode_image("/dev/zero", 0)


def test_file_over_the_limit_of_requests_is_rejected_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.tif").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidInputError, match=f"huge.tif' has {MAX_FILE_BYTES + 1} bytes, over the limit"):
        encode_image(tmp_path / "huge.tif", 0)


@pytest.mark.parametrize("nothing", [[], ()])
def test_empty_list_of_images_is_rejected(nothing: Any) -> None:
    with pytest.raises(InvalidInputError, match="at least one image"):
        as_images(nothing)
