"""Real servers that the supervisor restarts, leaves alone or gives up on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.system.faults.callers import FAST, IMAGES, PATIENCE_S, Callers, record_callers, serve
from tritonclip import Client

pytestmark = pytest.mark.slow
HANG = """

def _hang(groups):
    import time
    from pathlib import Path
    while Path({flag!r}).exists():
        time.sleep(0.05)

_score = score
def score(groups, logit_scale):
    _hang(groups)
    return _score(groups, logit_scale)
"""


def test_server_with_a_hanging_model_is_restarted(fault_repository, tmp_path, record_property):
    """The process is alive and Triton reports it healthy, but no request completes."""
    models = shutil.copytree(fault_repository, tmp_path / "models", symlinks=True)
    flag = tmp_path / "hang"
    with (models / "similarity" / "1" / "clip_scores.py").open("a") as file:
        file.write(HANG.format(flag=str(flag)))
    with serve(models, *FAST) as serving:
        with Callers(serving.grpc_url) as callers:
            began = time.monotonic()
            flag.touch()
            while not serving.supervisor_lines("must be restarted"):
                assert time.monotonic() - began < PATIENCE_S
                time.sleep(0.05)
            record_property("noticed (s)", time.monotonic() - began)
            flag.unlink()
            record_property("healthy again (s)", serving.seconds_until_healthy(began))
        record_callers(record_property, callers)
        assert serving.supervisor_lines("no request completed in the last")
        assert callers.count_of("lost") == 0
        assert callers.others() == []


def test_overloaded_server_is_not_restarted(prepare, record_property):
    """Neither rejected probes nor probes without an answer in time lead to a restart."""
    settings = ("--set", "vision_encoder.compile=off", "--set", "admission.queue_budget_ms=50")
    models = prepare("scripts/demo/checkpoint", "--precision", "float32", *settings)
    options = ("--probe-interval=0.2", "--probe-timeout=0.3", "--probe-failures=2", "--stall-timeout=10")
    with serve(models, *options) as serving:
        pid = serving.triton_pid
        with Callers(serving.grpc_url, count=24, pictures=IMAGES * 4) as callers:
            states = []
            for _ in range(20):
                with Client(serving.grpc_url, attempts=1, timeout_s=5) as client:
                    states.append(client.health(deep=True).inference)
                command = run_health(serving.grpc_url)
                states.append(command["endpoints"][0]["inference"])
        record_callers(record_property, callers)
        record_property("probes rejected for overload", states.count("overloaded"))
        assert serving.supervisor_lines("") == []
        assert serving.triton_pid == pid
        assert "failed" not in states
        assert "overloaded" in states


def run_health(url):
    """Return the output of `tritonclip health --deep`, which counts an overloaded server as healthy."""
    command = [sys.executable, "-c", "from tritonclip._cli.main import main; import sys; sys.exit(main())"]
    command += ["health", "--deep", "--json", "--url", url, "--attempts", "1", "--timeout", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    state = json.loads(done.stdout)
    assert done.returncode == (0 if state["ok"] else 3)
    return state


def test_supervisor_gives_up_if_restarts_do_not_help(fault_repository, tmp_path):
    models = shutil.copytree(fault_repository, tmp_path / "models", symlinks=True)
    options = ("--max-restarts=2", "--restart-window=600", "--probe-interval=1")
    with serve(models, *options) as serving:
        (models / "similarity" / "1" / "similarity.json").unlink()
        pid = serving.triton_pid
        os.kill(serving.stub_pid("similarity"), signal.SIGKILL)
        assert serving.process.wait(PATIENCE_S) == 3
        assert len(serving.supervisor_lines("must be restarted")) == 3
        assert "similarity.json" in "\n".join(serving.log)
        assert "error: gave up after 2 restarts within 600 s; the last reason: " in "\n".join(serving.log)
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)


def test_unsupervised_serve_exits_with_the_server(fault_repository):
    with serve(fault_repository, "--no-supervise") as serving:
        os.kill(serving.triton_pid, signal.SIGKILL)
        assert serving.process.wait(PATIENCE_S) == 1
        assert "error: tritonserver exited with code -9" in serving.log


def test_signal_during_a_restart_ends_all_processes(supervised):
    pid = supervised.triton_pid
    os.kill(pid, signal.SIGKILL)
    while not supervised.supervisor_lines("must be restarted"):
        time.sleep(0.01)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(PATIENCE_S) == 0
    for group in (pid, supervised.process.pid):
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
