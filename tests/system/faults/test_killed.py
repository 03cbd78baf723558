"""Processes of a supervised server that are killed or stopped under load: the effect on callers."""

import os
import signal

import pytest

from tests.helpers.waiting import wait_until
from tests.system.faults.callers import HOPELESS_S, Callers, record_callers, serve
from tritonclip import Client
from tritonclip_server.serving import processes

QUICK = "vision_encoder"
OTHERS = ("admission", "image_preprocess", "similarity", "text_encoder")


@pytest.fixture
def healthy(supervised):
    """Check that the server was restarted exactly once in a test, and is healthy before and after it."""
    assert supervised.is_healthy()
    known = len(supervised.log)
    yield supervised
    supervised.wait_for_supervisor("ready again", known)
    wait_until(supervised.is_healthy, lambda: str(supervised.log[-20:]), HOPELESS_S)
    assert len(supervised.supervisor_lines("must be restarted", known)) == 1


def signal_under_load(serving, pid, number, record_property):
    """Signal a process under load. Return the callers, once they are answered again, and the log."""
    known = len(serving.log)
    with Callers(serving.grpc_url) as callers:
        os.kill(pid, number)
        record_property("noticed (s)", serving.wait_for_supervisor("must be restarted", known))
        record_property("ready after (s)", serving.wait_for_supervisor("ready again", known))
        callers.wait_for(answers=8)
    record_callers(record_property, callers)
    assert callers.count_of("lost") == 0
    assert not callers.wrong
    return callers, "\n".join(serving.supervisor_lines("must be restarted", known))


@pytest.mark.parametrize("model", [QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)])
def test_killed_model_process_leads_to_a_restart(healthy, model, record_property):
    """Callers receive only errors that they can retry, because the whole server is killed at once."""
    before, pid = healthy.triton_pid, healthy.stub_pid(model)
    callers, log = signal_under_load(healthy, pid, signal.SIGKILL, record_property)
    assert callers.others() == []
    assert f"the process of {model} ({pid}) is gone" in log
    assert healthy.triton_pid != before


@pytest.mark.slow
def test_bulk_run_survives_a_killed_model_process(healthy):
    known = len(healthy.log)
    with Client(healthy.grpc_url) as client:
        texts = [f"text {index}" for index in range(600)]
        results = client.embed_texts_many(texts, batch_size=4, on_error="raise")
        got = [next(results)]
        os.kill(healthy.stub_pid("text_encoder"), signal.SIGKILL)
        got += list(results)
    assert len(got) == len(texts)
    assert healthy.supervisor_lines("the process of text_encoder", known)


@pytest.mark.slow
def test_killed_tritonserver_is_restarted(healthy, record_property):
    callers, log = signal_under_load(healthy, healthy.triton_pid, signal.SIGKILL, record_property)
    assert callers.others() == []
    assert "tritonserver exited with code -9" in log


@pytest.mark.slow
def test_stopped_tritonserver_is_restarted(healthy, record_property):
    """The server answers nothing and ignores SIGTERM. Callers get an error when it is killed."""
    callers, log = signal_under_load(healthy, healthy.triton_pid, signal.SIGSTOP, record_property)
    assert callers.others() == []
    assert "consecutive probes failed" in log


@pytest.mark.slow
@pytest.mark.parametrize("model", ["text_encoder", "vision_encoder"])
def test_stopped_model_process_leads_to_a_restart(healthy, model, record_property):
    """Triton notices that a process does not answer, and fails each request after 1 to 2 s."""
    callers, _ = signal_under_load(healthy, healthy.stub_pid(model), signal.SIGSTOP, record_property)
    assert all("is not healthy" in other for other in callers.others())


def test_triton_does_not_outlive_a_killed_command(servers, fault_repository):
    with serve(servers, "faults: the command itself is killed", fault_repository) as serving:
        triton = serving.triton_pid
        members = [triton, *processes.stubs(triton)]
        assert len(members) > 1
        serving.process.kill()
        wait_until(lambda: not any(map(processes.is_running, members)), lambda: str(members), HOPELESS_S)
