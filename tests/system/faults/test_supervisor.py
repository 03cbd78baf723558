"""Real servers that the supervisor restarts, leaves alone or gives up on."""

import os
import signal
import threading
import time

import pytest

from tests.helpers.gate import Gate
from tests.helpers.variants import UNCOMPILED
from tests.helpers.waiting import wait_until
from tests.system.faults.callers import FAST, HOPELESS_S, Callers, record_callers, serve
from tritonclip import Client

pytestmark = pytest.mark.slow
PROBE_TIMEOUT_S = 5


def test_server_with_a_hanging_model_is_restarted(servers, own_repository, own_gate, record_property):
    """The process is alive and Triton reports it healthy, but no request completes."""
    with serve(servers, "supervisor: a model hangs", own_repository, *FAST) as serving:
        with Callers(serving.grpc_url) as callers:
            with own_gate.closed():
                record_property("noticed (s)", serving.wait_for_supervisor("must be restarted"))
            record_property("ready after (s)", serving.wait_for_supervisor("ready again"))
            callers.wait_for(answers=8)
        record_callers(record_property, callers)
        assert serving.supervisor_lines("no request completed in the last")
        assert callers.count_of("lost") == 0
        assert callers.others() == []


def test_overloaded_server_is_not_restarted(servers, prepare, tmp_path, record_property):
    """Neither rejected probes nor probes without an answer in time lead to a restart."""
    settings = (*UNCOMPILED, "--set", "admission.queue_budget_ms=1000")
    models = prepare("scripts/demo/checkpoint", "--precision", "float32", *settings)
    gate = Gate(tmp_path)
    gate.install(models, "vision_encoder")
    options = (f"--probe-timeout={PROBE_TIMEOUT_S}", "--probe-interval=0.2", "--probe-failures=2")
    options += (f"--stall-timeout={HOPELESS_S}",)
    states = []

    def check():
        with Client(serving.grpc_url, attempts=1, timeout_s=HOPELESS_S) as client:
            states.append(client.health(deep=True).inference)

    with serve(servers, "supervisor: the server is overloaded", models, *options) as serving:
        pid = serving.triton_pid
        while states.count("overloaded") < 2:
            checks = [threading.Thread(target=check) for _ in range(4)]
            with gate.closed():
                for one in checks:
                    one.start()
                gate.wait_until_it_holds()
                time.sleep(3 * PROBE_TIMEOUT_S)  # at least two of the supervisor's probes reach their timeout
            for one in checks:
                one.join()
            assert set(states) <= {"ok", "overloaded"}
        assert serving.supervisor_lines("") == []
        assert serving.triton_pid == pid
    record_property("probes rejected for overload", states.count("overloaded"))


def test_supervisor_gives_up_if_restarts_do_not_help(servers, own_repository):
    options = ("--max-restarts=2", "--restart-window=3600", "--probe-interval=1")
    with serve(servers, "supervisor: it gives up", own_repository, *options) as serving:
        (own_repository / "similarity" / "1" / "similarity.json").unlink()
        pid = serving.triton_pid
        os.kill(serving.stub_pid("similarity"), signal.SIGKILL)
        assert serving.process.wait(HOPELESS_S) == 3
        wait_until(lambda: "error: gave up" in "\n".join(serving.log), lambda: str(serving.log), HOPELESS_S)
        log = "\n".join(serving.log)
        assert len(serving.supervisor_lines("must be restarted")) == 3
        assert "similarity.json" in log
        assert "error: gave up after 2 restarts within 3600 s; the last reason: " in log
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)


def test_unsupervised_serve_exits_with_the_server(servers, fault_repository):
    with serve(servers, "supervisor: there is none", fault_repository, "--no-supervise") as serving:
        os.kill(serving.triton_pid, signal.SIGKILL)
        assert serving.process.wait(HOPELESS_S) == 1
        text = "error: tritonserver exited with code -9"
        wait_until(lambda: text in serving.log, lambda: str(serving.log), HOPELESS_S)


def test_signal_during_a_restart_ends_all_processes(servers, fault_repository):
    with serve(servers, "supervisor: it is stopped during a restart", fault_repository, *FAST) as serving:
        pid = serving.triton_pid
        os.kill(pid, signal.SIGKILL)
        serving.wait_for_supervisor("must be restarted")
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(HOPELESS_S) == 0
        for group in (pid, serving.process.pid):
            with pytest.raises(ProcessLookupError):
                os.killpg(group, 0)
