"""Processes of a supervised server that are killed or stopped under load: the effect on callers."""

import os
import signal
import time

import pytest

from tests.helpers.servers import ROOT
from tests.system.faults.callers import Callers, record_callers
from tritonclip import Client

MODELS = sorted(path.parents[1].name for path in (ROOT / "model_repository").glob("*/1/model.py"))
QUICK = "vision_encoder"


def signal_under_load(serving, pid, number, record_property, **options):
    """Send a signal to a process under load, and return the callers when they are answered again."""
    with Callers(serving.grpc_url, **options) as callers:
        sent_at = time.monotonic()
        os.kill(pid, number)
        while not serving.supervisor_lines("must be restarted"):
            assert time.monotonic() - sent_at < 60, serving.log[-20:]
            time.sleep(0.05)
        record_property("noticed (s)", time.monotonic() - sent_at)
        record_property("healthy again (s)", serving.seconds_until_healthy(sent_at))
        callers.wait_for(answers=8)
    record_callers(record_property, callers)
    assert not callers.wrong
    assert len(serving.supervisor_lines("ready again")) == 1
    return callers


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in MODELS]
)
def test_killed_model_process_leads_to_a_restart(supervised, model, record_property):
    """Callers receive only errors that they can retry, because the whole server is killed at once."""
    before = supervised.triton_pid
    pid = supervised.stub_pid(model)
    callers = signal_under_load(supervised, pid, signal.SIGKILL, record_property)
    assert callers.count_of("lost") == 0
    assert callers.others() == []
    assert supervised.supervisor_lines(f"the process of {model} ({pid}) is gone")
    assert supervised.triton_pid != before


@pytest.mark.slow
def test_bulk_run_survives_a_killed_model_process(supervised):
    with Client(supervised.grpc_url) as client:
        texts = [f"text {index}" for index in range(600)]
        results = client.embed_texts_many(texts, batch_size=4, on_error="raise")
        got = [next(results)]
        os.kill(supervised.stub_pid("text_encoder"), signal.SIGKILL)
        got += list(results)
    assert len(got) == len(texts)
    assert supervised.supervisor_lines("the process of text_encoder")


@pytest.mark.slow
def test_killed_tritonserver_is_restarted(supervised, record_property):
    callers = signal_under_load(supervised, supervised.triton_pid, signal.SIGKILL, record_property)
    assert callers.count_of("lost") == 0
    assert callers.others() == []
    assert supervised.supervisor_lines("tritonserver exited with code -9")


@pytest.mark.slow
def test_stopped_tritonserver_is_restarted(supervised, record_property):
    """The server answers nothing and ignores SIGTERM. Callers get an error when it is killed."""
    callers = signal_under_load(supervised, supervised.triton_pid, signal.SIGSTOP, record_property)
    assert callers.count_of("lost") == 0
    assert callers.others() == []
    assert supervised.supervisor_lines("consecutive probes failed")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["text_encoder", "vision_encoder"])
def test_stopped_model_process_leads_to_a_restart(supervised, model, record_property):
    """Triton notices that a process does not answer, and fails each request after 1 to 2 s."""
    callers = signal_under_load(supervised, supervised.stub_pid(model), signal.SIGSTOP, record_property)
    assert callers.count_of("lost") == 0
    assert all("is not healthy" in other for other in callers.others())
