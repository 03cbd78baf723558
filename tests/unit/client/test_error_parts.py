"""Index, field and limit of errors, from the client's own checks and from the server's texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tritonclip import BulkOptions, Client, ClientOptions, InvalidInputError, RequestOptions, TritonClipError
from tritonclip.errors import FIELDS, DeadlineExceededError, from_failure

Parts = tuple[int | None, str | None, float | None]


def parts(error: TritonClipError) -> Parts:
    return error.index, error.field, error.limit


@pytest.fixture(scope="module")
def client() -> Client:
    return Client("localhost:1")


OWN: list[tuple[Callable[[Client], Any], Parts]] = [
    (lambda c: c.classify(["a.jpg", b"x"], ["a", "b"]), (0, "images", None)),
    (lambda c: c.classify([], ["a"]), (None, "images", None)),
    (lambda c: c.classify([b"x", b""], ["a", "b"]), (1, "images", None)),
    (lambda c: c.classify([b"x", np.zeros((2, 2, 2, 2))], ["a", "b"]), (1, "images", None)),
    (lambda c: c.classify(np.full((4, 4, 3), 300.0), ["a", "b"]), (0, "images", 1)),
    (lambda c: c.classify(b"x", ["a", "b", ""]), (2, "labels", None)),
    (lambda c: c.classify(b"x", []), (None, "labels", None)),
    (lambda c: c.classify(b"x", ["a"], top_k=0), (None, "top_k", None)),
    (lambda c: c.classify(b"x", ["a"], threshold=2), (None, "threshold", 1)),
    (lambda c: c.classify(b"x", ["a"], hypothesis_template="at most 7"), (None, "hypothesis_template", None)),
    (
        lambda c: c.classify(b"x", ["a"], hypothesis_template="{}" + 1000 * "x"),
        (None, "hypothesis_template", 1000),
    ),
    (lambda c: c.classify("limit of 5.jpg", ["a", "b"]), (0, "images", None)),
    (lambda c: c.embed_texts(["a", "b", 3]), (2, "texts", None)),  # type: ignore[list-item]
    (lambda c: c.embed_texts([]), (None, "texts", None)),
    (lambda c: c.health(timeout_s=-1), (None, "timeout_s", None)),
    (lambda c: c.health(priority=-1), (None, "priority", 2**32 - 1)),
    (lambda c: c.health(headers={"a b": "c"}), (None, "headers", None)),
    (lambda c: c.classify_many([], ["a", "b"], batch_size=2000), (None, "batch_size", 1024)),
    (lambda c: c.classify_many([], ["a", "b"], concurrency=0), (None, "concurrency", 256)),
    (lambda c: c.classify_many([], ["a", "b"], patience_s=0), (None, "patience_s", None)),
    (lambda c: c.classify_many([], ["a", "b"], on_error="x"), (None, "on_error", None)),
    (lambda c: c.embed_images_many(b"x"), (None, "images", None)),
    (lambda c: c.embed_texts_many("x"), (None, "texts", None)),
    (lambda c: Client("a b"), (None, "url", None)),
    (lambda c: Client("host:99999"), (None, "url", 65535)),
    (lambda c: Client(attempts=9), (None, "attempts", 5)),
    (lambda c: Client(protocol="ftp"), (None, "protocol", None)),
    (lambda c: Client(ca_file="none.pem"), (None, "ca_file", None)),
]


@pytest.mark.parametrize(("call", "expected"), OWN)
def test_errors_of_the_clients_own_checks(
    client: Client, call: Callable[[Client], Any], expected: Parts
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call(client)
    assert parts(caught.value) == expected, caught.value.message


def test_variable_at_fault_is_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONCLIP_TIMEOUT_S", "soon")
    with pytest.raises(InvalidInputError) as caught:
        Client()
    assert caught.value.field == "TRITONCLIP_TIMEOUT_S"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image 3 is too large: 9 x 9 pixels, the limit is 80 (max_image_pixels)", (3, "images", 80)),
        ("label 2 is too long: 50 bytes, the limit is 40 (max_label_bytes); shorten it", (2, "labels", 40)),
        ("label 1 is empty; send a text", (1, "labels", None)),
        (
            "too many images: 90 in one request, the limit is 64 (max_images); split the request",
            (None, "images", 64),
        ),
        (
            "request too large: 900 bytes of labels, the limit is 800 (max_request_bytes); split the request",
            (None, "labels", 800),
        ),
        ("no images: the tensor has shape [1, 0]; send at least one image", (None, "images", None)),
        ("request too large: more than 100 pixels in all images (max_request_pixels)", (None, None, 100)),
        ("image 2 is larger than 9 bytes (fetch_max_bytes); raise the limit", (2, "images", 9)),
        ("image 0 cannot be decoded because it is truncated: it has 5 of 9 bytes", (0, "images", None)),
    ],
)
def test_errors_of_the_server(text: str, expected: Parts) -> None:
    failure = InferenceServerException(f"in ensemble 'clip_zero_shot', {text}", status="400")
    error = from_failure(failure, model="clip_zero_shot", endpoint="http://h:1", timeout_s=1)
    assert parts(error) == expected


def test_deadline_is_the_limit() -> None:
    error = from_failure(TimeoutError(), model=None, endpoint="http://h:1", timeout_s=2.5)
    assert type(error) is DeadlineExceededError
    assert error.limit == 2.5


def test_error_about_nothing_in_particular_has_no_parts() -> None:
    assert parts(TritonClipError("the server's log names 3 images")) == (None, None, None)


def test_every_argument_is_a_known_field() -> None:
    options = [*ClientOptions.__annotations__, *BulkOptions.__annotations__, *RequestOptions.__annotations__]
    methods = [Client.classify_many, Client.similarity, Client.embed_texts_many]
    named = [name for one in methods for name in inspect.signature(one).parameters]
    assert {*options, *named} - {"self", "options"} <= set(FIELDS)


def test_path_that_failed_is_named_with_index_and_cure(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError) as caught:
        client.embed_images([b"x", "cats/1.jpg"])
    text = f"image 1: no such file: 'cats/1.jpg'; check the path, which is relative to {str(tmp_path)!r}"
    assert caught.value.message == text
    with pytest.raises(InvalidInputError, match=r"^image 0: no such file: '.*gone\.jpg'; check the path$"):
        client.embed_images(tmp_path / "gone.jpg")
    with pytest.raises(
        InvalidInputError, match=r"^image 0: cannot read .*; make it readable, or leave it out"
    ):
        client.embed_images("nul\0byte.jpg")
