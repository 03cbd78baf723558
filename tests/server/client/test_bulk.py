"""Bulk runs of the four clients on the real server: order, lazy reading and one error per bad input."""

import io
from functools import cache

import numpy as np
import pytest
from PIL import Image

from tests.helpers.clients import BOTH_KINDS
from tests.helpers.network import count_calls
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tritonclip import (
    DeadlineExceededError,
    InvalidInputError,
    Progress,
    ServerUnavailableError,
    TritonClipError,
    TruncatedTextWarning,
    find_images,
)

IMAGES = ROOT / "scripts" / "demo" / "images"
SAMPLE = IMAGES / "red_circle.jpg"
LABELS = ["a red circle", "a blue square", "the digit 7"]
POISON = b"this file ends the server"
"""Marks the requests that a proxy in front of the server rejects."""


@cache
def truncated():
    """Return the first bytes of a JPEG."""
    return encode(noise(300, 300), "JPEG")[:3000]


def small_images(count):
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def either(make, url, preprocess):
    """Return a client that preprocesses on the server or on its own side."""
    return make(url, timeout_s=60, preprocess=preprocess)


both_sides = pytest.mark.parametrize("preprocess", ["server", "client"])


@BOTH_KINDS
@both_sides
def test_bulk_results_equal_single_calls(either):
    images = small_images(50)
    alone = np.stack([either.embed_images(image) for image in images])
    bulk = list(either.embed_images_many(iter(images), batch_size=7, concurrency=3))
    np.testing.assert_allclose(np.stack(bulk), alone, atol=1e-5)
    ranked = either.classify(images, LABELS, top_k=2)
    many = list(either.classify_many(images, LABELS, top_k=2))
    assert [[one["label"] for one in row] for row in many] == [[o["label"] for o in row] for row in ranked]
    scores = [[[one["score"] for one in row] for row in rows] for rows in (many, ranked)]
    np.testing.assert_allclose(*scores, atol=1e-4)


@BOTH_KINDS
def test_bulk_text_embeddings_equal_one_call(client):
    texts = [f"text number {number}" for number in range(600)]
    np.testing.assert_allclose(
        np.stack(list(client.embed_texts_many(texts))), client.embed_texts(texts), atol=1e-5
    )


@BOTH_KINDS
def test_directory_and_glob_pattern_are_accepted_as_inputs(client):
    paths = list(find_images(IMAGES))
    assert len(paths) > 5
    wanted = client.embed_images(paths)
    np.testing.assert_allclose(np.stack(list(client.embed_images_many(IMAGES))), wanted, atol=1e-5)
    by_pattern = list(client.embed_images_many(str(IMAGES / "*.jpg")))
    jpegs = [row for path, row in zip(paths, wanted, strict=True) if path.suffix == ".jpg"]
    np.testing.assert_allclose(np.stack(by_pattern), np.stack(jpegs), atol=1e-5)


@BOTH_KINDS
@both_sides
def test_each_bad_image_gets_its_own_error_and_no_good_image_is_lost(either, tmp_path):
    images = small_images(40)
    bad = {
        3: tmp_path / "missing.jpg",
        11: truncated(),
        12: b"no image",
        25: np.full((2, 2), 1.5),
        39: truncated(),
    }
    for index, image in bad.items():
        images[index] = image
    reports = []
    results = list(
        either.classify_many(images, LABELS, batch_size=10, on_error="return", on_progress=reports.append)
    )
    assert [i for i, result in enumerate(results) if isinstance(result, TritonClipError)] == list(bad)
    for index in bad:
        assert isinstance(results[index], InvalidInputError)
        assert str(results[index]).startswith(f"image {index}")
    good = [index for index in range(40) if index not in bad]
    alone = either.classify([images[index] for index in good], LABELS)
    for index, wanted in zip(good, alone, strict=True):
        assert results[index][0]["label"] == wanted[0]["label"]
    assert reports[-1] == Progress(done=40, failed=5, retries=0)
    assert [progress.done for progress in reports] == [10, 20, 30, 40]


@BOTH_KINDS
@both_sides
def test_first_bad_image_ends_the_run_after_the_results_before_it(either):
    images = small_images(30)
    images[17] = truncated()
    results = either.embed_images_many(images, batch_size=5)
    for _ in range(17):
        next(results)
    with pytest.raises(InvalidInputError, match="^image 17.* (damaged|decode)"):
        next(results)
    assert either.health().ok


@pytest.mark.parametrize("wait_for_server", [True, False])
@BOTH_KINDS
def test_image_that_makes_every_request_with_it_fail_costs_only_its_own_result(
    server, protocol, make, wait_for_server
):
    images = [encode(Image.fromarray(pixels), "PNG") for pixels in small_images(20)]
    for index in (0, 13):
        images[index] += POISON
    with count_calls(server, protocol) as calls:
        calls.rejects = lambda body: POISON in body
        client = make(calls.url, timeout_s=60, attempts=1)
        options = {"batch_size": 8, "patience_s": 0.01, "wait_for_server": wait_for_server}
        results = list(client.embed_images_many(images, on_error="return", **options))
        with pytest.raises(ServerUnavailableError, match="^image 0: .* answers requests without this image"):
            list(client.classify_many(images, LABELS, **options))
        alone = client.embed_images([one for one in images if POISON not in one])
    failed = [index for index, one in enumerate(results) if isinstance(one, TritonClipError)]
    assert failed == [0, 13]
    assert all(results[index].message.startswith(f"image {index}: ") for index in failed)
    good = [one for one in results if not isinstance(one, TritonClipError)]
    np.testing.assert_allclose(np.stack(good), alone, atol=1e-5)


@BOTH_KINDS
def test_text_that_makes_every_request_with_it_fail_costs_only_its_own_result(server, protocol, make):
    texts = [f"text {number}" for number in range(9)]
    texts[5] += POISON.decode()
    with count_calls(server, protocol) as calls:
        calls.rejects = lambda body: POISON in body
        client = make(calls.url, timeout_s=60, attempts=1)
        results = list(client.embed_texts_many(texts, batch_size=4, patience_s=0.01, on_error="return"))
    assert [index for index, one in enumerate(results) if isinstance(one, TritonClipError)] == [5]
    assert results[5].message.startswith("text 5: ")


@BOTH_KINDS
def test_errors_of_bad_texts_name_their_index(client):
    texts = ["one", "", "three", 4, "five"]
    results = list(client.embed_texts_many(texts, on_error="return"))
    assert [str(one)[:7] if isinstance(one, TritonClipError) else "good" for one in results] == [
        "good", "text 1:", "good", "text 3:", "good",
    ]  # fmt: skip


@BOTH_KINDS
def test_warning_of_a_truncated_text_names_its_index(client):
    texts = ["short"] * 300 + ["word " * 200]
    with pytest.warns(TruncatedTextWarning, match="text 300 has") as caught:
        list(client.embed_texts_many(texts))
    assert len(caught) == 1


@BOTH_KINDS
@both_sides
def test_truncated_label_is_reported_once_per_run(either):
    with pytest.warns(TruncatedTextWarning, match="label 1 has") as caught:
        list(either.classify_many(small_images(40), ["short", "word " * 200], batch_size=4))
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([f"label {number}" for number in range(20_000)], "too many labels"),
        (["short", "x" * 100_000], "label 1 is too long"),
    ],
    ids=["too many", "too long"],
)
@BOTH_KINDS
def test_rejected_labels_end_the_run_without_a_second_request(server, protocol, make, labels, message):
    with count_calls(server, protocol) as calls:
        client = make(calls.url, timeout_s=60)
        with pytest.raises(InvalidInputError, match=message):
            list(client.classify_many(small_images(5), labels, on_error="return"))
        assert calls.models == ["clip_zero_shot"]


@BOTH_KINDS
def test_inputs_are_read_lazily(client):
    read = []

    def images():
        for image in small_images(200):
            read.append(1)
            yield image

    results = client.embed_images_many(images(), batch_size=4, concurrency=2)
    next(results)
    assert len(read) <= 4 * (2 * 2 + 1)
    results.close()
    assert client.health().ok


@pytest.mark.variant("overload")
@BOTH_KINDS
def test_request_that_misses_its_deadline_ends_the_run(client, gate):
    # On a slow machine the server may reject a request just before the client does.
    message = r"no answer within 0.3 s|deadline (passed|cannot be met): "
    with gate.closed(), pytest.raises((DeadlineExceededError, ServerUnavailableError), match=message):
        list(client.embed_images_many([SAMPLE] * 40, timeout_s=0.3, patience_s=0.1, on_error="return"))
    assert client.embed_images(SAMPLE).shape == (512,)  # by now the server has ended the other requests


@BOTH_KINDS
def test_bulk_run_accepts_file_objects(client):
    files = [io.BytesIO(SAMPLE.read_bytes()) for _ in range(20)]
    rows = np.stack(list(client.embed_images_many(files)))
    np.testing.assert_allclose(rows, np.stack([client.embed_images(SAMPLE)] * 20), atol=1e-5)
