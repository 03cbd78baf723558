"""Images as base64: all formats are recognised, and no image file is taken for a text."""

import base64

import pytest
from PIL import Image

from clip_base64 import decoded_text
from clip_pillow import DEFAULT_FORMATS, ImageError
from tests.helpers.odd_pictures import ODD_PICTURES, heif_of_size, odd_picture
from tests.helpers.pictures import encode, noise


@pytest.fixture(scope="module", params=[*DEFAULT_FORMATS, "HEIF", *ODD_PICTURES])
def file(request):
    """Return a file of each accepted format, and each odd one."""
    if request.param in ODD_PICTURES:
        return odd_picture(request.param)
    return heif_of_size(64, 64) if request.param == "HEIF" else encode(noise(33, 20), request.param)


def test_file_is_no_text(file):
    assert decoded_text(file) is None


def test_base64_of_a_file_is_decoded(file):
    text = base64.b64encode(file)
    assert decoded_text(text) == file
    assert decoded_text(base64.encodebytes(file)) == file
    assert decoded_text(b"data:image/x-any;base64," + text) == file


def test_letters_that_begin_a_text_begin_no_accepted_format():
    Image.init()
    for letters in (
        b"/9j/",
        b"iVBOR",
        b"UklG",
        b"R0lGO",
        b"Qk0",
        b"SUkq",
        b"TU0A",
        b"UDY",
        b"AAAA",
        b"/0//",
        b"data",
    ):
        text = letters + b"A" * 60
        accepting = [
            name for name in DEFAULT_FORMATS if (accept := Image.OPEN[name][1]) and accept(text) is True
        ]
        assert accepting == [], letters


@pytest.mark.parametrize(
    "text", [b"", b"R0lGOD", b"a cat", b"QkA=", b"data:text/plain;base64,AAAA", b"\xff" * 9]
)
def test_other_content_is_no_text(text):
    assert decoded_text(text) is None


@pytest.mark.parametrize("fault", [b"/9j/4A", b"/9j/-_AA", b"iVBORw0KGg oAAAA", b"data:image/png;base64,%2F"])
def test_invalid_base64_is_an_error(fault):
    with pytest.raises(ImageError, match="begins like an image in base64, but is no valid base64 .*; send"):
        decoded_text(fault)
