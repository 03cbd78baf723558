"""Processes that are killed or stopped under load, supervised: what callers see, and for how long."""

import os
import signal
import time

import pytest

from tests.helpers.servers import ROOT
from tests.system.faults.callers import Callers, record_callers
from tritonclip import Client

MODELS = sorted(path.parents[1].name for path in (ROOT / "model_repository").glob("*/1/model.py"))
QUICK = "vision_encoder"


def strike(serving, pid, number, record_property, **options):
    """Signals a process under load; returns the callers once they are answered again."""
    with Callers(serving.grpc_url, **options) as callers:
        struck = time.monotonic()
        os.kill(pid, number)
        while not serving.said("must be restarted"):
            assert time.monotonic() - struck < 60, serving.log[-20:]
            time.sleep(0.05)
        record_property("noticed (s)", time.monotonic() - struck)
        record_property("healthy again (s)", serving.seconds_until_healthy(struck))
        callers.wait_for(answers=8)
    record_callers(record_property, callers)
    assert not callers.wrong
    assert len(serving.said("ready again")) == 1
    return callers


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in MODELS]
)
def test_the_process_of_a_model_is_killed(supervised, model, record_property):
    """Nobody is told anything but to come again: the rest of the server is gone before it can say more."""
    before = supervised.triton_pid
    pid = supervised.stub_pid(model)
    callers = strike(supervised, pid, signal.SIGKILL, record_property)
    assert callers.count_of("lost") == 0
    assert callers.others() == []
    assert supervised.said(f"the process of {model} ({pid}) is gone")
    assert supervised.triton_pid != before


@pytest.mark.slow
def test_a_bulk_run_outlives_a_killed_process(supervised):
    with Client(supervised.grpc_url) as client:
        texts = [f"text {index}" for index in range(600)]
        results = client.embed_texts_many(texts, batch_size=4, on_error="raise")
        got = [next(results)]
        os.kill(supervised.stub_pid("text_encoder"), signal.SIGKILL)
        got += list(results)
    assert len(got) == len(texts)
    assert supervised.said("the process of text_encoder")


@pytest.mark.slow
def test_tritonserver_is_killed(supervised, record_property):
    callers = strike(supervised, supervised.triton_pid, signal.SIGKILL, record_property)
    assert callers.count_of("lost") == 0
    assert callers.others() == []
    assert supervised.said("tritonserver exited with code -9")


@pytest.mark.slow
def test_tritonserver_is_stopped(supervised, record_property):
    """It answers nothing and ignores SIGTERM. Callers who wait longer than the supervisor are told then."""
    callers = strike(supervised, supervised.triton_pid, signal.SIGSTOP, record_property)
    assert callers.count_of("lost") == 0
    assert callers.others() == []
    assert supervised.said("consecutive probes failed")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["text_encoder", "vision_encoder"])
def test_the_process_of_a_model_is_stopped(supervised, model, record_property):
    """Triton sees that a process does not answer, and fails its requests after a second or two each."""
    callers = strike(supervised, supervised.stub_pid(model), signal.SIGSTOP, record_property)
    assert callers.count_of("lost") == 0
    assert all("is not healthy" in other for other in callers.others())
