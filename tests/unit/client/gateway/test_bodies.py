from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from tests.unit.client.gateway.requests import FORM, request_of
from tritonclip import InvalidInputError
from tritonclip._images.urls import decode_data_url

FILE = b"\xff\xd8\xff not really a JPEG \0\r\n"


def read(body: object) -> Any:
    """Parse a JSON body of /v1/classify."""
    from tritonclip.gateway.dialects.native import ClassifyRequest
    from tritonclip.gateway.payloads.bodies import read_json

    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(read_json(request_of(raw), ClassifyRequest))


def read_form(*parts: bytes, chunk_bytes: int = 1 << 20) -> Any:
    """Parse a form of /v1/classify whose parts are headers and content."""
    from tritonclip.gateway import GatewaySettings
    from tritonclip.gateway.dialects.native import ClassifyFields
    from tritonclip.gateway.payloads import bodies

    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    request = request_of(body, FORM, chunk_bytes=chunk_bytes)
    return asyncio.run(bodies.read_form(request, ClassifyFields, GatewaySettings(), ("images",)))


def problem(body: object) -> str:
    """Return the message of the error that a JSON body gets."""
    from tritonclip.gateway._problems import Problem

    with pytest.raises((Problem, InvalidInputError)) as caught:
        read(body)
    return str(getattr(caught.value, "message", ""))


def part(name: str, content: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def test_null_member_counts_as_left_out() -> None:
    from tritonclip.gateway.dialects.native import ClassifyRequest

    optional = set(ClassifyRequest.model_fields) - {"images"}
    assert read({"images": "x"} | dict.fromkeys(optional)) == read({"images": "x"})
    assert problem({"images": None}).startswith("images: Field required")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"images": [' + b"0," * 100_001 + b"0]}", "more than 100000 commas"),
        (b'{"images": "' + b"\\n" * 1_000_001 + b'"}', "1000000 backslashes"),
        ({"images": "x"} | {str(number): 0 for number in range(100)}, "members: 101 given, at most 100"),
        (b"[0]", "the body should be an object"),
        (b"[" * 100_000, "Invalid JSON"),
    ],
)
def test_body_that_would_expand_is_rejected(body: object, message: str) -> None:
    assert message in problem(body)


def test_first_wrong_item_of_a_list_ends_its_check() -> None:
    from pydantic import ValidationError

    from tritonclip.gateway.dialects.native import ClassifyRequest
    from tritonclip.gateway.dialects.openai import EmbeddingsRequest

    for model, member in ((ClassifyRequest, "images"), (EmbeddingsRequest, "input")):
        with pytest.raises(ValidationError) as caught:
            model.model_validate({member: [0.5] * 1000}, strict=True)
        assert caught.value.error_count() < 10


def test_error_repeats_little_of_what_was_sent() -> None:
    assert len(problem({"images": "x"} | {letter * 10_000: 0 for letter in "abc"})) < 400


def test_texts_within_a_template_are_counted_before_they_are_expanded() -> None:
    from tritonclip.gateway import GatewaySettings
    from tritonclip.gateway.payloads.bodies import check_texts_size

    settings = GatewaySettings(max_text_chars=1000)
    check_texts_size("labels", ["ab"] * 100, settings, ["x" * 8])
    with pytest.raises(InvalidInputError, match="100 in a template of 9 characters make 1100 characters"):
        check_texts_size("labels", ["ab"] * 100, settings, ["x" * 9])
    check_texts_size("labels", ["ab"] * 100, settings, ["xx", "x"])
    with pytest.raises(InvalidInputError, match="100 in 3 templates of 5 characters make 1100 characters"):
        check_texts_size("labels", ["ab"] * 100, settings, ["xx", "x", "xx"])
    with pytest.raises(InvalidInputError, match="2 in 6000 templates make 12000 sentences, at most 10000"):
        check_texts_size("labels", ["a", "b"], GatewaySettings(), ["{}"] * 6000)
    with pytest.raises(InvalidInputError, match="1 make 1001 characters, at most 1000 per request"):
        check_texts_size("labels", "," * 1001, settings)


def test_part_with_an_image_type_is_a_file_without_a_file_name() -> None:
    body = read_form(
        part("images", FILE, "Content-Type: image/jpeg"),
        part("images", FILE, "content-type: IMAGE/PNG"),
        part("images", b"text", "Content-Type: text/plain"),
        part("labels", b"a"),
    )
    assert [(source.content, source.name) for source in body.images] == [
        (FILE, None),
        (FILE, None),
        ("text", None),
    ]
    assert body.fields.labels == "a"


def test_form_is_the_same_however_its_body_arrives() -> None:
    labels = [f"label {number}" for number in range(3000)]
    parts = [part("labels", label.encode()) for label in labels]
    for chunk_bytes in (97, 1 << 16, 1 << 20):
        assert read_form(*parts, chunk_bytes=chunk_bytes).fields.labels == labels


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "\r\n", "%0A"])
def test_blanks_between_characters_of_base64_are_skipped(blank: str) -> None:
    encoded = blank.join(base64.b64encode(FILE * 9).decode())
    assert decode_data_url(f"data:image/jpeg;base64,{encoded}", "image 0", 10**6) == FILE * 9


def test_large_base64_is_decoded_in_parts() -> None:
    content = bytes(range(256)) * 12_000
    encoded = base64.b64encode(content).decode()
    for text in (encoded, encoded.rstrip("="), encoded.replace("+", "%2B").replace("/", "%2f")):
        assert decode_data_url(f"data:;base64,{text}", "image 0", 10**8) == content


def test_many_percent_encoded_bytes_are_rejected() -> None:
    assert decode_data_url("data:," + "%41" * 10_000, "image 0", 10**6) == b"A" * 10_000
    with pytest.raises(InvalidInputError, match="over 10000 percent-encoded bytes; use base64"):
        decode_data_url("data:," + "%41" * 10_001, "image 0", 10**6)
