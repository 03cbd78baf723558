"""Callers that disconnect, hang or are slow: others are answered, and no request stays in flight."""

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
import time

import numpy as np
import pytest

from tests.helpers.network import Forwarder
from tests.system.faults.callers import (
    HOPELESS_S,
    LABELS,
    Callers,
    images,
    large_images,
    never_reads,
    record_callers,
    scores,
    wait_until_empty,
)
from tritonclip import AsyncClient, Client, DeadlineExceededError, ServerUnavailableError

SEED = 5
CANCELLED = 12


@pytest.fixture
def settled(supervised):
    """Check that the server answers as before after a test, is not restarted, and has nothing in flight."""
    pid = supervised.triton_pid
    with Client(supervised.grpc_url) as client:
        before = scores(client, images())
        wait_until_empty(supervised)
        yield
        wait_until_empty(supervised)
        np.testing.assert_allclose(scores(client, images()), before, atol=1e-5)
        assert client.health(deep=True).inference == "ok"
    assert supervised.triton_pid == pid


def assert_unaffected(callers, record_property):
    """Check that all calls of the other callers were answered."""
    record_callers(record_property, callers)
    assert callers.outcomes().keys() == {"answered"}
    assert not callers.wrong


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_cancelled_calls_do_not_affect_others(supervised, settled, protocol, record_property):
    """The delays grow from less than the first step takes to more than all steps take."""
    url = supervised.grpc_url if protocol == "grpc" else f"http://{supervised.http_url}"

    async def cancel_many():
        async with AsyncClient(url, attempts=1) as client:
            done = 0
            for delay_s in np.geomspace(0.001, 1, CANCELLED):
                calls = [asyncio.ensure_future(client.classify([one], LABELS)) for one in large_images(1000)]
                await asyncio.sleep(delay_s)
                done += sum(call.done() for call in calls)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            return done

    with Callers(supervised.grpc_url, count=2) as callers:
        done = asyncio.run(cancel_many())
    record_property("empty again (s)", wait_until_empty(supervised))
    record_property("cancelled", CANCELLED * len(large_images(1000)) - done)
    assert_unaffected(callers, record_property)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_calls_whose_deadline_ends_leave_nothing_in_flight(supervised, settled, protocol, record_property):
    url = supervised.grpc_url if protocol == "grpc" else f"http://{supervised.http_url}"
    ends = dict.fromkeys(("answered", "too late"), 0)
    with Client(url, attempts=1) as client:
        for timeout_s in np.geomspace(0.0005, 1, 20):
            try:
                client.classify(large_images(1000), LABELS, timeout_s=float(timeout_s))
                ends["answered"] += 1
            except (DeadlineExceededError, ServerUnavailableError) as error:
                assert isinstance(error, DeadlineExceededError) or "deadline" in error.message
                ends["too late"] += 1
    for name, count in ends.items():
        record_property(name, count)
    record_property("empty again (s)", wait_until_empty(supervised))
    assert ends["too late"]


def http_request(url, texts):
    """Return the head and the body of a JSON request over HTTP."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, len(texts)], "data": texts}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/clip_text_embedding/infer HTTP/1.1\r\nHost: {url}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body


def connect(url):
    host, _, port = url.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=HOPELESS_S)


def test_torn_http_connections_do_not_affect_others(supervised, settled, record_property):
    """The connection ends in the head, in the body or after the request, by a close or a reset."""
    texts = [f"torn {index}" for index in range(50)]
    head, body = http_request(supervised.http_url, texts)
    whole = head + body
    with Callers(supervised.grpc_url, count=2) as callers:
        for sent in [10, len(head), len(head) + 20, len(whole) - 1, len(whole)] * 2:
            for abruptly in (False, True):
                with connect(supervised.http_url) as connection:
                    if abruptly:
                        linger = struct.pack("ii", 1, 0)  # closing resets the connection
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.sendall(whole[:sent])
    assert_unaffected(callers, record_property)


def test_torn_grpc_connections_do_not_affect_others(supervised, settled, record_property):
    chance = random.Random(SEED)
    with Callers(supervised.grpc_url, count=2) as callers, Forwarder(supervised.grpc_url) as forwarder:
        for _ in range(8):
            forwarder.down = False
            with Client(forwarder.address, timeout_s=HOPELESS_S) as client:
                client.embed_texts("connected")
                cut = threading.Timer(chance.uniform(0.001, 0.2), forwarder.go_down)
                cut.start()
                with contextlib.suppress(ServerUnavailableError):
                    client.classify(large_images(1000), LABELS)
                cut.join()
    assert_unaffected(callers, record_property)


def test_caller_that_sends_byte_by_byte_is_answered(supervised, settled, record_property):
    head, body = http_request(supervised.http_url, ["slow"])
    with Callers(supervised.grpc_url, count=2) as callers, connect(supervised.http_url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = head.index(b"\r\n") + 2  # the embedded release rejects a request line that arrives in pieces
        connection.sendall(head[:line])
        for byte in head[line:] + body:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)  # at least; each byte in a separate packet
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"text_embeds" in answer
    assert_unaffected(callers, record_property)


def test_callers_that_never_read_do_not_affect_others(supervised, settled, record_property):
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(never_reads(supervised.http_url))
        for url in (supervised.grpc_url, f"http://{supervised.http_url}"):
            with Callers(url, count=2) as callers:
                callers.wait_for(answers=10)
            assert_unaffected(callers, record_property)


def test_silent_connections_do_not_affect_others(supervised, settled, record_property):
    """Half of the connections send the start of a request."""
    with contextlib.ExitStack() as stack:
        for index in range(60):
            for url in (supervised.http_url, supervised.grpc_url):
                connection = stack.enter_context(connect(url))
                if index % 2:
                    connection.sendall(
                        b"POST /v2/mod" if url == supervised.http_url else b"PRI * HTTP/2.0\r\n"
                    )
        for url in (supervised.grpc_url, f"http://{supervised.http_url}"):
            with Callers(url, count=2) as callers:
                callers.wait_for(answers=10)
            assert_unaffected(callers, record_property)
