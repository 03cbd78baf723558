"""Outages, restarts, and dead or slow servers, with every kind of client."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.helpers.calls import together
from tests.helpers.network import Forwarder, count_calls
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tritonclip import (
    AsyncClient,
    Client,
    InvalidInputError,
    ServerUnavailableError,
)

SAMPLE = (ROOT / "scripts" / "demo" / "images" / "red_circle.jpg").read_bytes()
LABELS = ["a red circle", "a blue square", "the digit 7"]
PROTOCOLS = ["grpc", "http"]
LONG_S = 60.0
ENDS_S = 120.0  # limit for operations that must not wait for their patience of 600 s
INTERRUPTS = 1000
INTERRUPTED_RUNS = f"""
import random, signal
from tritonclip._process.workers import Workers

signal.signal(signal.SIGALRM, signal.default_int_handler)
for number in range({INTERRUPTS}):
    try:
        with Workers(lambda value: value, 4) as workers:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3), 2)  # again if a finalizer ate it
            while True:
                for value in range(8):
                    workers.submit(value)
                for value in range(8):
                    assert workers.take_next() == value
    except KeyboardInterrupt:
        continue
print("interrupted {INTERRUPTS} times")
"""


@pytest.fixture
def connect(make):
    """Return a function that makes clients of the tested kind."""
    return lambda url, **options: make(url, **{"timeout_s": LONG_S, **options})


def address(server, protocol):
    return server.grpc_url if protocol == "grpc" else server.http_url


@pytest.fixture
def forwarder(url):
    with Forwarder(url) as running:
        yield running


@pytest.fixture
def calls(server, protocol):
    with count_calls(server, protocol) as counted:
        yield counted


@pytest.fixture
def dead():
    """An address without a listener, which no other program can take during the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def short_waits(monkeypatch):
    """Retry calls almost at once."""
    monkeypatch.setattr("tritonclip._retry.FIRST_WAIT_S", 0.001)


def assert_names(error, *, model, endpoint):
    """Check that an error names the model, the server and the next step."""
    assert (error.model, error.endpoint) == (model, endpoint)
    assert "Try again shortly; if that does not help, check the URL and the port" in str(error)
    assert f"(model {model}, server {endpoint})" in str(error)


# Single calls


def test_call_to_a_busy_server_is_retried(connect, calls, short_waits):
    calls.reject_next = 2
    assert connect(calls.url).embed_texts("a").shape == (512,)
    assert len(calls.seen) == 3


def test_number_of_attempts_is_limited(protocol, connect, calls, short_waits):
    calls.reject_next = 100
    for attempts in (1, 2, 5):
        calls.seen.clear()
        with pytest.raises(ServerUnavailableError, match="the server accepts no more requests") as caught:
            connect(calls.url, attempts=attempts).embed_texts("a")
        assert len(calls.seen) == attempts
        assert_names(caught.value, model="clip_text_embedding", endpoint=f"{protocol}://{calls.url}")


def test_invalid_input_is_not_retried(connect, calls):
    with pytest.raises(InvalidInputError, match="image 0 is not an image"):
        connect(calls.url).embed_images([b"no image"])
    assert len(calls.seen) == 1


def test_call_is_not_retried_after_its_deadline(connect, calls, monkeypatch):
    monkeypatch.setattr("tritonclip._retry.FIRST_WAIT_S", 2 * LONG_S)
    monkeypatch.setattr("tritonclip._retry.MAX_WAIT_S", 2 * LONG_S)
    calls.reject_next = 100
    with pytest.raises(ServerUnavailableError):
        connect(calls.url, attempts=5).embed_texts("a", timeout_s=LONG_S)
    assert len(calls.seen) == 1


def test_refused_connection_is_retried(connect, forwarder):
    forwarder.reject_next = 2
    assert connect(forwarder.address, attempts=5).embed_texts("a").shape == (512,)
    assert forwarder.reject_next == 0


def test_call_succeeds_if_the_server_returns_during_the_retries(connect, forwarder):
    client = connect(forwarder.address, attempts=5)
    first = client.embed_texts("a")
    forwarder.go_down()
    forwarder.reject_next = 1
    forwarder.down = False
    np.testing.assert_array_equal(client.embed_texts("a"), first)
    assert forwarder.reject_next == 0


def test_single_attempt_fails_on_a_lost_connection(protocol, connect, forwarder):
    client = connect(forwarder.address, attempts=1)
    client.embed_texts("a")
    forwarder.go_down()
    with pytest.raises(ServerUnavailableError) as caught:
        client.embed_texts("a")
    assert_names(caught.value, model="clip_text_embedding", endpoint=f"{protocol}://{forwarder.address}")


def test_large_requests_and_answers_arrive_complete_after_a_retry(connect, calls, short_waits):
    calls.reject_next = 1
    client = connect(calls.url)
    padded = SAMPLE + bytes(6_000_000)  # decoders ignore bytes after the picture
    np.testing.assert_allclose(client.embed_images(padded), client.embed_images(SAMPLE), atol=1e-6)
    calls.reject_next = 1
    embeds = client.embed_texts(["a", "b"] * 2000)
    assert embeds.nbytes > 8_000_000
    np.testing.assert_allclose(embeds, np.tile(embeds[:2], (2000, 1)), atol=1e-6)
    assert len(calls.seen) == 5


@pytest.mark.parametrize("cut_after_bytes", [100, 50_000], ids=["in its head", "in its tensors"])
def test_connection_lost_during_an_answer_is_unavailable(protocol, connect, forwarder, cut_after_bytes):
    forwarder.cut_after_bytes = cut_after_bytes
    with pytest.raises(ServerUnavailableError) as caught:
        connect(forwarder.address, attempts=2).embed_texts(["a"] * 200)
    assert "RawResponse" not in str(caught.value)
    assert_names(caught.value, model="clip_text_embedding", endpoint=f"{protocol}://{forwarder.address}")
    forwarder.cut_after_bytes = float("inf")
    assert connect(forwarder.address).embed_texts(["a"] * 200).shape == (200, 512)


# Several endpoints


def test_calls_are_spread_over_endpoints(url, connect):
    with Forwarder(url) as one, Forwarder(url) as other:
        client = connect(f"{one.address},{other.address.replace('127.0.0.1', 'localhost')}")

        def received():
            client.embed_images(SAMPLE)
            return [one.received_bytes, other.received_bytes]

        wait_until(lambda: min(received()) > len(SAMPLE), "one endpoint gets no calls")
        before = received()
        for _ in range(20):
            client.embed_images(SAMPLE)
        shares = np.subtract([one.received_bytes, other.received_bytes], before)
    assert sum(shares) > 20 * len(SAMPLE)
    assert min(shares) > 0.4 * sum(shares)


def test_dead_endpoint_fails_no_call(connect, forwarder, dead):
    for urls in ((dead, forwarder.address), (forwarder.address, dead)):
        client = connect(",".join(urls), attempts=2)
        for _ in range(6):
            assert client.embed_texts("a").shape == (512,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dead_endpoint_fails_no_concurrent_call(server, protocol, dead):
    url = f"{dead},{address(server, protocol)}"
    with Client(url, protocol=protocol, timeout_s=LONG_S, attempts=2) as client:
        assert together(16, lambda index: client.embed_texts(str(index)).shape) == [(512,)] * 16


def test_endpoint_is_used_again_after_an_outage(server, protocol, connect, forwarder):
    client = connect(f"{forwarder.address},{address(server, protocol)}")
    client.embed_texts("a")
    forwarder.go_down()
    for _ in range(6):
        assert client.embed_texts("a").shape == (512,)
    forwarder.down = False
    before = forwarder.received_bytes

    def is_used():
        assert client.embed_texts("a").shape == (512,)
        return forwarder.received_bytes > before

    wait_until(is_used, "the endpoint gets no calls")


def test_error_names_all_dead_endpoints(protocol, connect, dead):
    urls = f"{dead},{dead.replace('127.0.0.1', 'localhost')}"
    with pytest.raises(ServerUnavailableError) as caught:
        connect(urls, attempts=2).embed_texts("a")
    assert_names(caught.value, model="clip_text_embedding", endpoint=f"{protocol}://{urls}")


# Bulk runs


@pytest.fixture(scope="module")
def pictures():
    """120 different small images."""
    return [encode(noise(24 + seed % 7, 24, seed), "PNG") for seed in range(120)]


@pytest.fixture(scope="module")
def alone(server, pictures):
    """The embeddings of the pictures, in the order of the pictures."""
    with Client(server.grpc_url, timeout_s=LONG_S) as client:
        embeds = client.embed_images(pictures)
        np.testing.assert_allclose(client.embed_images(pictures[7]), embeds[7], atol=1e-5)
    nearest = np.partition(-(embeds @ embeds.T), 1, axis=1)[:, 1]
    assert nearest.min() > -0.9999, "the images are too alike to show a wrong order"
    return embeds


def test_bulk_run_survives_an_outage(connect, forwarder, pictures, alone):
    reports = []

    def watch(progress):
        reports.append(progress)
        if len(reports) == 2:
            forwarder.go_down()
            forwarder.reject_next = 2
            forwarder.down = False

    client = connect(forwarder.address, attempts=1)
    embeds = list(client.embed_images_many(iter(pictures), batch_size=8, on_progress=watch))
    np.testing.assert_allclose(np.stack(embeds), alone, atol=1e-5)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert (reports[-1].done, reports[-1].failed) == (len(pictures), 0)
    assert reports[-1].retries > 0
    assert reports[0].retries == 0
    assert forwarder.reject_next == 0


def test_bulk_run_fails_after_patience_and_keeps_its_results(protocol, connect, forwarder, pictures, alone):
    got = []
    client = connect(forwarder.address, attempts=1)
    results = client.embed_images_many(
        iter(pictures), batch_size=8, concurrency=1, patience_s=0.2, on_error="return"
    )
    with pytest.raises(ServerUnavailableError) as caught:
        for embed in results:
            got.append(embed)
            if len(got) == 40:
                forwarder.go_down()
    assert_names(caught.value, model="clip_image_embedding", endpoint=f"{protocol}://{forwarder.address}")
    # Answers from before the outage, at most 2 requests ahead, are emitted; none after it.
    assert len(got) in (40, 48, 56)
    np.testing.assert_allclose(np.stack(got), alone[: len(got)], atol=1e-5)


def test_closed_bulk_run_ends_at_once_during_an_outage(connect, forwarder, pictures):
    def leave():
        results = client.embed_images_many(iter(pictures), batch_size=8, patience_s=600)
        next(results)
        forwarder.go_down()
        for _ in range(7):
            next(results)
        results.close()

    client = connect(forwarder.address)
    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    leaving.join(ENDS_S)
    assert not leaving.is_alive()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cancelled_bulk_run_ends_during_an_outage(protocol, dead):
    async def run():
        before = asyncio.all_tasks()
        async with AsyncClient(dead, protocol=protocol) as client:
            results = client.embed_texts_many(["a"] * 10, patience_s=600)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(results), 0.3)
        return asyncio.all_tasks() - before

    running = threading.Thread(target=lambda: left.append(asyncio.run(run())), daemon=True)
    left = []
    running.start()
    running.join(ENDS_S)
    assert left == [set()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ctrl_c_ends_a_bulk_run_during_an_outage(protocol, forwarder):
    code = """
import sys
from tritonclip import Client
with Client(sys.argv[1], protocol=sys.argv[2]) as client:
    list(client.embed_texts_many(["a"] * 1000, batch_size=2, patience_s=600))
"""
    forwarder.go_down()
    command = [sys.executable, "-c", code, forwarder.address, protocol]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: forwarder.connections, "the run has not begun")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=ENDS_S)
        finally:
            process.kill()
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_at_any_moment_ends_the_run_and_lets_the_process_exit():
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_RUNS], timeout=ENDS_S, capture_output=True, text=True, check=False
    )
    assert process.stdout == f"interrupted {INTERRUPTS} times\n", process.stderr


# One client, many callers


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_threads_can_share_a_client(server, protocol, pictures, alone):
    def mixed(client, index):
        picture = pictures[index]
        return [
            client.classify([picture, SAMPLE], [*LABELS, f"number {index}"]),
            client.embed_images([picture]).tolist(),
            client.embed_texts([f"text {index}", "shared"]).tolist(),
            client.similarity(picture, [f"text {index}"]).tolist(),
        ]

    def flat(answer):
        ranked = [sorted((found["label"], found["score"]) for found in one) for one in answer[0]]
        labels = [[label for label, _ in one] for one in ranked]
        numbers = [score for one in ranked for _, score in one]
        return labels, np.concatenate([numbers, *(np.ravel(part) for part in answer[1:])])

    with Client(address(server, protocol), protocol=protocol, timeout_s=LONG_S) as client:
        expected = [flat(mixed(client, index)) for index in range(16)]
        for found, right in zip(together(16, lambda index: mixed(client, index)), expected, strict=True):
            assert not isinstance(found, Exception), found
            labels, numbers = flat(found)
            assert labels == right[0]
            np.testing.assert_allclose(numbers, right[1], atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_rejects_a_second_event_loop(server, protocol):
    client = AsyncClient(address(server, protocol), protocol=protocol)

    async def embed():
        return (await client.embed_texts("a")).shape

    async def embed_and_close():
        loop = asyncio.get_running_loop()
        assert await embed() == (512,)
        # Another loop, in another thread, while this one is alive.
        with pytest.raises(
            RuntimeError, match="belongs to the event loop of its first call; make one client per loop"
        ):
            await loop.run_in_executor(None, asyncio.run, embed())
        assert await embed() == (512,)
        await client.close()

    asyncio.run(embed_and_close())
