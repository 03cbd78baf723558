from __future__ import annotations

import base64
import io
import re
import warnings

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from tritonclip import Client, InvalidInputError, LabelWarning
from tritonclip._calls.checks import MAX_TEMPLATE_CHARS, check_labels, check_texts
from tritonclip._calls.codec import Ranking
from tritonclip._calls.token_counts import collecting
from tritonclip._images.sources import encode_image
from tritonclip._messages.text import encoded_image, shown

NO_OPTIONS = {"hypothesis_template": "a {}", "top_k": None, "threshold": None}


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("a, b", ["a", "b"]),
        ("a", ["a"]),
        (" a ,, b,", ["a", "b"]),
        ('["a, b", "c"]', ["a, b", "c"]),
        (' ["a"] ', ["a"]),
        ("[a, b]", ["[a", "b]"]),
        ("[" * 100_000, ["[" * 100_000]),
        (["a, b"], ["a, b"]),
        (("a, b", "c"), ["a, b", "c"]),
        (['["a", "b"]'], ['["a", "b"]']),
    ],
)
def test_string_of_labels_is_split_and_a_list_is_not(given: object, labels: list[str]) -> None:
    assert check_labels(given) == labels


@pytest.mark.parametrize("given", ["", " , ", "[]", "[1, 2]", '["a", " "]', '["a", null]'])
def test_string_without_usable_labels_is_rejected(given: str) -> None:
    with pytest.raises(InvalidInputError, match="label"):
        check_labels(given)


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        (None, "no labels were given; ranked the default labels: object, animal, vehicle, person, food"),
        (["a, b"], "only one label was given; its score is 1 whatever the image shows"),
        ("a", "only one label was given"),
        ('["a, b"]', "only one label was given"),
    ],
)
def test_labels_whose_scores_say_little_are_reported(given: object, warning: str) -> None:
    with pytest.warns(LabelWarning, match=warning):
        Ranking.check(given, **NO_OPTIONS)
    with warnings.catch_warnings(), collecting() as collected:
        warnings.simplefilter("error")
        for _ in range(2):
            Ranking.check(given, **NO_OPTIONS)
    assert len(collected.warnings) == 1
    assert collected.warnings[0].startswith(warning)


def test_two_labels_are_not_reported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ranking.check("a, b", **NO_OPTIONS)


def test_template_over_the_limit_is_rejected_without_repeating_it() -> None:
    template = "x" * (MAX_TEMPLATE_CHARS - 1) + "{}"
    with pytest.raises(InvalidInputError, match="1001 characters, over the limit of 1000") as caught:
        Ranking.check(["a", "b"], hypothesis_template=template, top_k=None, threshold=None)
    assert "xx" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="expected exactly one") as caught:
        Ranking.check(["a", "b"], hypothesis_template="x" * 900, top_k=None, threshold=None)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "image", ["x" * 100_000, "http://a/" + "x" * 100_000, "ftp:" + "/x" * 100, "a/" * 9000]
)
def test_error_about_an_image_repeats_at_most_200_characters(image: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_image(image, 0)
    assert str(caught.value).startswith("image 0: ")
    assert max(map(len, re.findall(r"'([^']*)'", str(caught.value))), default=0) <= 200
    assert len(str(caught.value)) < 350


@pytest.mark.parametrize("url", ["ftp://" + "x" * 9000, "x" * 9000 + ":1/a"])
def test_error_about_a_url_repeats_at_most_200_characters(url: str) -> None:
    with pytest.raises(InvalidInputError, match="url") as caught:
        Client(url).close()
    assert len(str(caught.value)) < 350


def test_long_text_is_shown_shortened() -> None:
    assert shown("a'b") == '"a\'b"'
    assert shown("x" * 100) == repr("x" * 100)
    assert shown("x" * 101) == repr("x" * 100) + "..."


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF", "AVIF", "HEIF"])
def test_text_that_encodes_an_image_is_rejected(image_format: str) -> None:
    register_heif_opener()
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, image_format)
    encoded = base64.b64encode(file.getvalue()).decode()
    for text in (encoded, base64.encodebytes(file.getvalue()).decode()):
        with pytest.raises(InvalidInputError, match=f"text 1: it is a {image_format} file in base64, not"):
            check_texts(["a", text])
    for uri in (f"data:image/x;base64,{encoded}", "DATA:image/png;base64,AAAA"):
        with pytest.raises(InvalidInputError, match="label 0: it is a data: URI of an image"):
            check_labels([uri])


@pytest.mark.parametrize(
    "text",
    ["BM" * 40, "a photo of a cat " * 9, "f" * 64, "\u00e9" * 90, "data:text/plain,a", "/9j/ is a JPEG"],
)
def test_text_that_encodes_no_image_is_kept(text: str) -> None:
    assert encoded_image(text) is None
    assert check_texts(text) == ([text], True)
