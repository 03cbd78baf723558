"""When the supervisor restarts, when it lets a server be, and when it gives up; on real servers."""

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


def test_a_model_that_hangs_is_restarted(fault_repository, tmp_path, record_property):
    """Its process lives and Triton calls it healthy; what tells is that nothing is finished."""
    models = shutil.copytree(fault_repository, tmp_path / "models", symlinks=True)
    flag = tmp_path / "hang"
    with (models / "similarity" / "1" / "clip_scores.py").open("a") as file:
        file.write(HANG.format(flag=str(flag)))
    with serve(models, *FAST) as serving:
        with Callers(serving.grpc_url) as callers:
            began = time.monotonic()
            flag.touch()
            while not serving.said("must be restarted"):
                assert time.monotonic() - began < PATIENCE_S
                time.sleep(0.05)
            record_property("noticed (s)", time.monotonic() - began)
            flag.unlink()
            record_property("healthy again (s)", serving.seconds_until_healthy(began))
        record_callers(record_property, callers)
        assert serving.said("no request completed in the last")
        assert callers.count_of("lost") == 0
        assert callers.others() == []


def test_an_overloaded_server_is_let_be(prepare, record_property):
    """Neither one that refuses the probe nor one that is too slow for it."""
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
        record_property("probes refused for overload", states.count("overloaded"))
        assert serving.said("") == []
        assert serving.triton_pid == pid
        assert "failed" not in states
        assert "overloaded" in states


def run_health(url):
    """What `tritonclip health --deep` prints; an overloaded server is no failure."""
    command = [sys.executable, "-c", "from tritonclip._cli.main import main; import sys; sys.exit(main())"]
    command += ["health", "--deep", "--json", "--url", url, "--attempts", "1", "--timeout", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    state = json.loads(done.stdout)
    assert done.returncode == (0 if state["ok"] else 3)
    return state


def test_it_gives_up_where_restarts_do_not_help(fault_repository, tmp_path):
    models = shutil.copytree(fault_repository, tmp_path / "models", symlinks=True)
    options = ("--max-restarts=2", "--restart-window=600", "--probe-interval=1")
    with serve(models, *options) as serving:
        (models / "similarity" / "1" / "similarity.json").unlink()
        pid = serving.triton_pid
        os.kill(serving.stub_pid("similarity"), signal.SIGKILL)
        assert serving.process.wait(PATIENCE_S) == 3
        assert len(serving.said("must be restarted")) == 3
        assert "similarity.json" in "\n".join(serving.log)
        assert "error: gave up after 2 restarts within 600 s; the last reason: " in "\n".join(serving.log)
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)


def test_without_it_a_server_that_ends_ends_the_launcher(fault_repository):
    with serve(fault_repository, "--no-supervise") as serving:
        os.kill(serving.triton_pid, signal.SIGKILL)
        assert serving.process.wait(PATIENCE_S) == 1
        assert "error: tritonserver exited with code -9" in serving.log


def test_a_signal_while_it_restarts_ends_everything(supervised):
    pid = supervised.triton_pid
    os.kill(pid, signal.SIGKILL)
    while not supervised.said("must be restarted"):
        time.sleep(0.01)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(PATIENCE_S) == 0
    for group in (pid, supervised.process.pid):
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
