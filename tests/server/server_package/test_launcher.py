"""The launcher: starts that fail, a stop that loses no request, and stale shared memory."""

import os
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.gate import Gate
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import DEMO_CHECKPOINT
from tests.helpers.variants import UNCOMPILED
from tests.helpers.waiting import wait_until
from tritonclip import Client, ServerUnavailableError
from tritonclip_server.serving import launcher, processes
from tritonclip_server.serving.launcher import LaunchError, remove_stale_regions

PATIENT = ("--set", "admission.queue_budget_ms=600000")
HOPELESS_S = 600


def python_models(repository):
    """Return the Python models, which have one process each."""
    return {path.parents[1].name for path in repository.glob("*/1/model.py")}


def regions():
    return set(launcher.SHARED_MEMORY.glob(launcher.REGION_PATTERN))


def regions_of(pid):
    """Return the regions of shared memory that a server has mapped; other servers may run too."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {region for region in regions() if region.name in maps}


def memory_settings(pid):
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return [variable for variable in variables if variable.startswith("MALLOC_ARENA_MAX=")]


def test_models_do_not_inherit_the_memory_setting_of_the_server(server):
    assert memory_settings(server.pid) == ["MALLOC_ARENA_MAX=2"]
    assert server.stubs()
    assert not any(map(memory_settings, server.stubs()))


def rejects_requests(client):
    """Return whether a server that drains rejected a request."""
    try:
        client.embed_texts("a cat")
    except ServerUnavailableError as error:
        assert "draining" in str(error)
        return True
    return False


def test_stop_answers_requests_in_flight_and_leaves_nothing_behind(server, servers, prepare, tmp_path):
    repository = prepare(DEMO_CHECKPOINT, "--precision", "float32", *UNCOMPILED, *PATIENT)
    gate = Gate(tmp_path)
    gate.install(repository, "vision_encoder", "_run")
    stopped = servers.new(repository, "stop with a request in flight", drain_timeout_s=HOPELESS_S)
    stopped.start()
    try:
        pid, own = stopped.pid, regions_of(stopped.pid)
        assert set(stopped.stubs().values()) == python_models(repository)
        assert len(own) == len(stopped.stubs())
        client = Client(stopped.grpc_url, timeout_s=HOPELESS_S, attempts=1)
        with client, ThreadPoolExecutor() as pool:
            with gate.closed():
                answer = pool.submit(client.embed_images, encode(noise(64, 64), "PNG"))
                gate.wait_until_it_holds()
                stop = pool.submit(stopped.stop)
                wait_until(lambda: rejects_requests(client), "the server does not drain", HOPELESS_S)
                # At least twice the time in which a server without requests is drained.
                time.sleep(2 * launcher.DRAINED_AFTER_S)
                assert not stop.done()
            assert answer.result().shape == (512,)
            stop.result()
    finally:
        stopped.kill()
    assert not processes.stubs(pid)
    assert not own & regions()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with Client(stopped.grpc_url) as client, pytest.raises(ServerUnavailableError):
        client.health(timeout_s=60)
    with Client(server.grpc_url, timeout_s=60) as client:  # the shared server is not affected
        assert client.classify(encode(noise(64, 64), "PNG"), ["cat"])


def test_further_flags_come_last_and_unknown_ones_are_reported(servers, demo_repository):
    flags = {"log-verbose": "1", "no-such-flag": "yes"}
    server = servers.new(demo_repository, "unknown flag; exits at once", flags=flags)
    # The server exits at the first unknown flag, so it knows those before.
    with pytest.raises(LaunchError, match="unrecognized option '--no-such-flag=yes'$"):
        server.start()


def test_model_that_does_not_load_fails_the_start_with_its_reason(servers, demo_repository, tmp_path):
    shutil.copytree(demo_repository / "similarity", tmp_path / "similarity")
    settings = tmp_path / "similarity" / "1" / "similarity.json"
    settings.write_text(settings.read_text().replace(":", ": 1", 1))
    server = servers.new(tmp_path, "a model that does not load")
    with pytest.raises(LaunchError, match="(?s)exited while it was loading.*similarity.json was changed"):
        server.start()
    assert not remove_stale_regions()


def test_only_unmapped_shared_memory_is_removed(server):
    in_use = regions_of(server.pid)
    stale = launcher.SHARED_MEMORY / f"triton_python_backend_shm_region_{uuid.uuid4()}"
    stale.write_bytes(b"left by a server that was killed")
    assert stale.name in remove_stale_regions()
    assert not stale.exists()
    assert in_use <= regions()
