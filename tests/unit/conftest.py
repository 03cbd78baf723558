"""Unit tests start no process and connect to this machine only; a test that does otherwise fails."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from typing import Any

import numpy.testing  # noqa: F401 (its import starts a process)
import pytest

PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
_guard = {"active": False}


def _check(event: str, arguments: tuple[Any, ...], guard: dict[str, bool] = _guard) -> None:
    if not guard["active"]:  # an argument, because the interpreter clears globals before its last events
        return
    if event in PROCESS_EVENTS:
        pytest.fail(f"a unit test starts a process ({event}): move it to tests/server or tests/system")
    if event == "socket.connect" and not _is_local(arguments[1]):
        pytest.fail(f"a unit test connects to {arguments[1]!r}: use a server in this process")


def _is_local(address: object) -> bool:
    """Return whether the address of a socket is a path or belongs to this machine."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback


sys.addaudithook(_check)


@pytest.fixture(autouse=True)
def _guarded() -> Iterator[None]:
    _guard["active"] = True
    yield
    _guard["active"] = False
