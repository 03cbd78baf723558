"""More idle connections than a server may have files open, by the limit of the system."""

import contextlib
import resource
import socket

import pytest

from tests.helpers.waiting import wait_until
from tests.system.faults.callers import HOPELESS_S, serve
from tritonclip import Client

SOFT, HARD = 512, 1024
CONNECTIONS = 1000
LIMIT = f"error: tritonserver has {HARD} files and connections open, which is its limit"


@pytest.fixture(scope="module")
def limited(servers, fault_repository):
    """`serve.py` with small limits on open files."""
    limits = ("prlimit", f"--nofile={SOFT}:{HARD}")
    with serve(
        servers, "faults: few open files", fault_repository, "--no-supervise", before=limits
    ) as serving:
        yield serving


def test_soft_limit_is_raised_to_the_hard_one(limited):
    assert resource.prlimit(limited.triton_pid, resource.RLIMIT_NOFILE) == (HARD, HARD)


def test_idle_connections_at_the_limit_are_logged_once_and_spare_connected_callers(limited):
    with Client(limited.grpc_url, timeout_s=HOPELESS_S, attempts=1) as connected:
        expected = connected.embed_texts("a")
        with contextlib.ExitStack() as stack:
            host, _, port = limited.http_url.rpartition(":")
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection((host, int(port))))
            wait_until(
                lambda: any(LIMIT in line for line in limited.log),
                lambda: str(limited.log),
                HOPELESS_S,
            )
            for index in range(50):
                assert connected.embed_texts(f"text {index}").shape == (512,)
            assert (connected.embed_texts("a") == expected).all()
    with Client(f"http://{limited.http_url}", protocol="http", timeout_s=HOPELESS_S) as later:
        assert later.embed_texts("a").shape == (512,)
    assert sum(LIMIT in line for line in limited.log) == 1
    assert not [line for line in limited.log if "Too many open files" in line]
