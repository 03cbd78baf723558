"""Outcomes of a probe: servers that cannot be reached, and the real texts of rejected requests."""

import ast
import contextlib
import itertools
import socket
import threading
from typing import NamedTuple

import pytest

from clip_admission import Limits, stamp
from clip_common.pace import BATCHES_BEFORE, Pace
from clip_common.times import Times
from tests.helpers.servers import ROOT
from tritonclip_server.serving.probe import InferenceServerException as TritonError
from tritonclip_server.serving.probe import _failed_inference, is_overload, probe

MS = 1000


class Group(NamedTuple):
    times: Times
    size: int = 1


def reject_slow_batch():
    """Let a model instance reject a group whose batch would end 1 ms after its deadline."""
    pace = Pace(itertools.count(0, 2 * MS).__next__)
    for _ in range(BATCHES_BEFORE):
        pace.run([Group(Times(0, 60_000 * MS, 60_000 * MS))], list)
    now_us = BATCHES_BEFORE * 2 * 2 * MS
    (outcome,) = pace.run([Group(Times(0, 60_000 * MS, now_us + MS))], list)
    raise outcome


REJECTIONS = {
    "queue budget is over": lambda: Times(0, 10 * MS, 60_000 * MS).check(11 * MS),
    "deadline has passed": lambda: Times(0, 60_000 * MS, 10 * MS).check(11 * MS),
    "batch ends after the deadline": reject_slow_batch,
    "no time is left": lambda: stamp('{"deadline_ms": -3}', 1, Limits(10_000, 60_000), 0),
}


@pytest.mark.parametrize("rejection", REJECTIONS)
def test_texts_of_the_models_for_load_are_overload(rejection):
    with pytest.raises(RuntimeError) as caught:
        REJECTIONS[rejection]()
    text = str(caught.value)
    assert is_overload(text)
    error = TritonError(f"[request id: 7] in ensemble 'clip_zero_shot', {text}", "StatusCode.UNAVAILABLE")
    result = _failed_inference(error)
    assert (result.outcome, result.reason) == ("overloaded", text)


def test_text_of_a_draining_server_is_not_overload():
    source = (ROOT / "model_repository" / "admission" / "1" / "model.py").read_text("utf-8")
    constants = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    (text,) = (one for one in constants if str(one).startswith("draining: "))
    assert not is_overload(text)
    assert _failed_inference(TritonError(text, "StatusCode.UNAVAILABLE")).outcome == "failed"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TritonError("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED"), "timeout"),
        (TimeoutError("timed out"), "timeout"),
        (TritonError("Socket closed", "StatusCode.UNAVAILABLE"), "failed"),
        (ConnectionResetError("reset"), "failed"),
    ],
)
def test_failed_inference_is_a_timeout_or_a_failure(error, outcome):
    assert _failed_inference(error).outcome == outcome


@pytest.fixture
def sockets():
    """Return a function that binds a TCP socket to a port of this machine, on which nothing listens yet."""
    with contextlib.ExitStack() as stack:

        def bind():
            bound = stack.enter_context(socket.socket())
            bound.bind(("127.0.0.1", 0))
            return bound, f"127.0.0.1:{bound.getsockname()[1]}"

        yield bind


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_probe_fails_if_nothing_listens(sockets, scheme):
    _, address = sockets()
    result = probe(scheme + address, timeout_s=60)
    assert result.outcome == "failed"
    assert "onnect" in result.reason


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_probe_fails_if_the_server_accepts_connections_only(sockets, scheme):
    listener, address = sockets()
    listener.listen()
    result = probe(scheme + address, timeout_s=0.3)
    assert (result.outcome, result.is_busy) == ("failed", False)
    assert result.reason == "no answer within the time limit of the probe"


@pytest.mark.parametrize("answer", [b"", b"220 ready\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_probe_fails_if_the_answer_is_not_that_of_a_server(sockets, scheme, answer):
    listener, address = sockets()
    listener.listen()

    def answer_once():
        connection, _ = listener.accept()
        listener.close()  # so that a second attempt fails at once
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=answer_once, daemon=True)
    thread.start()
    result = probe(scheme + address, timeout_s=60)
    thread.join(60)
    assert result.outcome == "failed"
    assert result.reason
