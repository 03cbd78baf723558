"""The processes of an embedded server and their sockets, as /proc tells of them, and how to end them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

STUB = "triton_python_backend_stub"
GROUP_END_S = 5.0
ENDED = ("Z", "X")
PROC = Path("/proc")


def stubs(group: int) -> dict[int, str]:
    """The Python processes of a server that still run: the model of each by process id.

    Args:
        group: Process id of the server, which leads their group.
    """
    found = {}
    for directory in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end in between
            state, _, its_group = _status(int(directory.name))[:3]
            arguments = (directory / "cmdline").read_bytes().split(b"\0")
            if int(its_group) == group and state not in ENDED and arguments[0].endswith(STUB.encode()):
                found[int(directory.name)] = Path(os.fsdecode(arguments[1])).parent.parent.name
    return found


def is_running(pid: int) -> bool:
    """Whether the process is there, and more than a dead entry that its parent has not collected."""
    try:
        return _status(pid)[0] not in ENDED
    except OSError:
        return False


def _status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()


def unsent_bytes(ports: Collection[int]) -> int:
    """What the kernel holds of the answers of servers on these ports, because their callers do not read."""
    return sum(size for port, size in _send_queues() if port in ports)


def _send_queues() -> Iterator[tuple[int, int]]:
    """The local port and the bytes in the send queue of each TCP socket."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                _, local, _, _, queues = line.split()[:5]
                yield int(local.rpartition(":")[2], 16), int(queues.partition(":")[0], 16)


def end(process: subprocess.Popen[str], timeout_s: float) -> None:
    """Ends the server and the stubs in its process group: by SIGTERM, and by SIGKILL what is left."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):  # A wedged server ignores SIGTERM.
        process.wait(timeout_s + GROUP_END_S)
    deadline = time.monotonic() + GROUP_END_S
    while process.poll() is not None and time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Ends the server and the stubs in its process group at once, by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
