"""Timings of calls: their parts, whose they are, and that they fit into the caller's time."""

import asyncio
import time

import numpy as np
import pytest

from tests.helpers.pictures import encode, noise
from tritonclip import AsyncClient, Client, collect_timings

JPEG = encode(noise(99, 88), "JPEG")
LABELS = ["a red circle", "the digit 7"]


@pytest.fixture(scope="module", params=["grpc", "http"])
def timed(server, request):
    url = getattr(server, f"{request.param}_url")
    with Client(url, protocol=request.param, timings=True) as client:
        yield client


def check(timings, wall_ms, *, zero=()):
    """Check that no part is negative, that these parts are 0, and that all fit into the caller's time."""
    parts = timings._asdict()
    assert min(parts.values()) >= 0
    assert {name for name, part_ms in parts.items() if part_ms == 0} <= {"score_ms", "text_ms", *zero}
    assert not any(parts[name] for name in zero)
    assert timings.total_ms == pytest.approx(sum(parts.values()))
    assert timings.total_ms <= wall_ms


def test_classify_has_the_timings_of_its_request(timed):
    start_s = time.perf_counter()
    one = timed.classify(JPEG, LABELS)
    wall_ms = (time.perf_counter() - start_s) * 1000
    check(one.timings, wall_ms)
    several = timed.classify([JPEG, JPEG], LABELS)
    assert several.timings == several[0].timings == several[1].timings
    assert several.timings != one.timings


def test_arrays_have_their_timings_in_a_block(timed):
    start_s = time.perf_counter()
    with collect_timings() as found:
        timed.embed_images(JPEG)
        timed.embed_texts(LABELS)
        timed.similarity(JPEG, LABELS)
    wall_ms = (time.perf_counter() - start_s) * 1000
    images, texts, both = found
    check(images, wall_ms, zero=("text_ms", "score_ms"))
    check(texts, wall_ms, zero=("decode_ms", "encode_ms", "score_ms"))
    check(both, wall_ms, zero=("score_ms",))
    timed.embed_images(JPEG)
    assert len(found) == 3


def test_each_answer_of_a_bulk_run_has_the_timings_of_its_request(timed):
    answers = list(timed.classify_many([JPEG] * 3, LABELS, batch_size=2, concurrency=1))
    assert answers[0].timings == answers[1].timings != answers[2].timings


def test_each_request_of_a_bulk_run_is_collected(timed):
    with collect_timings() as found:
        assert timed.models()
        list(timed.embed_texts_many(LABELS * 2, batch_size=2, concurrency=2))
    assert len(found) == 2


def test_asynchronous_calls_of_child_tasks_are_collected(server):
    async def run():
        async with AsyncClient(server.grpc_url, timings=True) as client:
            with collect_timings() as found:
                answers = await asyncio.gather(*(client.classify(JPEG, LABELS) for _ in range(3)))
            return answers, found

    answers, found = asyncio.run(run())
    assert sorted(found) == sorted(answer.timings for answer in answers)


def test_client_that_preprocesses_has_no_decoding_on_the_server(server):
    with Client(server.grpc_url, timings=True, preprocess="client") as client:
        client.classify(JPEG, LABELS)
        start_s = time.perf_counter()
        answer = client.classify(np.zeros((300, 300, 3), np.uint8), LABELS)
        wall_ms = (time.perf_counter() - start_s) * 1000
    check(answer.timings, wall_ms, zero=("text_ms", "decode_ms", "score_ms"))


def test_client_without_timings_has_none(server):
    with Client(server.grpc_url) as client, collect_timings() as found:
        assert client.classify(JPEG, LABELS).timings is None
    assert not found
