"""Too little shared memory for the tensors that the models exchange."""

import shutil
import subprocess

import pytest

from tests.system.faults.callers import (
    FAST,
    HOPELESS_S,
    Callers,
    images,
    large_images,
    record_callers,
    scores,
    serve,
)
from tritonclip import Client, TritonClipError

pytestmark = pytest.mark.slow


def limited_to(size):
    """Return the words that run a command with a private /dev/shm of this size."""
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    for unshare in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        command = [*unshare, "sh", "-c", mount, "sh"]
        if shutil.which("unshare") and not subprocess.run([*command, "true"], check=False).returncode:
            return tuple(command)
    pytest.skip("this machine does not allow mounts in a separate namespace")


def test_only_requests_that_do_not_fit_fail(servers, fault_repository, record_property):
    why = "full memory: its /dev/shm is small"
    with serve(servers, why, fault_repository, *FAST, before=limited_to("24m")) as serving:
        with Callers(serving.grpc_url) as callers, Client(serving.grpc_url, attempts=1) as client:
            right = scores(client, images())
            errors = []
            for _ in range(5):
                with pytest.raises(TritonClipError) as caught:
                    client.embed_images(large_images(1500) * 20, timeout_s=HOPELESS_S)
                errors.append(str(caught.value))
            callers.wait_for(answers=20)
            assert (abs(scores(client, images()) - right) < 1e-4).all()
        record_callers(record_property, callers)
        assert all("shared memory" in error and "shm" in error for error in errors), errors
        assert callers.count_of("lost") == 0
        assert not callers.wrong
        # A caller whose row was in the same dynamic batch receives the same error.
        assert all("shared memory" in other for other in callers.others())
        assert serving.supervisor_lines("") == []


def test_server_that_does_not_fit_reports_it(servers, fault_repository):
    why = "full memory: its /dev/shm is too small to start"
    with pytest.raises(AssertionError, match="(?s)No space left on device|shared memory"):
        with serve(servers, why, fault_repository, before=limited_to("2m")):
            pytest.fail("it started")
