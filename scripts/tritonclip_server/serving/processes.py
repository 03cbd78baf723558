"""Find the processes and sockets of a server in /proc, limit their files, and end the processes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

STUB = "triton_python_backend_stub"
GROUP_EXIT_S = 5.0
"""Time that the processes of a server may take to exit, in seconds."""
KILL_AT_END_OF_INPUT = 'read -r _; kill -s KILL -- "-$1"'
EXITED = ("Z", "X")
LISTENING = "0A"
MAX_COMMAND_CHARS = 80
PROC = Path("/proc")


def stubs(group: int) -> dict[int, str]:
    """Return the running Python processes of a server: the model of each by process id.

    Args:
        group: Process id of the server, which leads the process group.
    """
    found = {}
    for directory in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may exit in between
            state, _, its_group = _status(int(directory.name))[:3]
            arguments = (directory / "cmdline").read_bytes().split(b"\0")
            if int(its_group) == group and state not in EXITED and arguments[0].endswith(STUB.encode()):
                found[int(directory.name)] = Path(os.fsdecode(arguments[1])).parent.parent.name
    return found


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return _status(pid)[0] not in EXITED
    except OSError:
        return False


def _status(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()


def unsent_bytes(ports: Collection[int]) -> int:
    """Return how many bytes of answers the kernel holds for callers of these ports that do not read."""
    return sum(size for port, size in _send_queues() if port in ports)


def _send_queues() -> Iterator[tuple[int, int]]:
    """Yield the local port and the bytes in the send queue of each TCP socket."""
    for fields in _tcp_sockets():
        yield int(fields[1].rpartition(":")[2], 16), int(fields[4].partition(":")[0], 16)


def listener(port: int) -> str | None:
    """Return the process that listens on a TCP port, as "process 12 (nginx)"; None if it cannot be seen."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for directory in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or it exits in between
            if any(os.readlink(file) in sockets for file in (directory / "fd").iterdir()):
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                return f"process {directory.name} ({os.fsdecode(command).strip()[:MAX_COMMAND_CHARS]})"
    return None


def _listening(port: int) -> Iterator[str]:
    """Yield the inode of each socket that listens on a port."""
    for fields in _tcp_sockets():
        if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _tcp_sockets() -> Iterator[list[str]]:
    """Yield the fields of each TCP socket in /proc/net."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                yield line.split()


def raise_file_limit(pid: int) -> None:
    """Raise the soft limit on open files of a process to its hard limit."""
    with contextlib.suppress(OSError):  # it may have exited
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def file_limit(pid: int) -> int:
    """Return the soft limit on open files of a process, or 0 if it exited."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return 0


def kill_with_this_process(group: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills a process group as soon as this process has ended, even by SIGKILL.

    `PR_SET_PDEATHSIG` would not do: it acts when the thread that started the server ends.

    Returns:
        The shell. Kill it once the group has ended.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", KILL_AT_END_OF_INPUT, "sh", str(group)],
        stdin=subprocess.PIPE,  # never written to; the kernel closes it with this process
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,  # Ctrl-C in a terminal does not reach it
    )


def terminate(process: subprocess.Popen[str], timeout_s: float) -> None:
    """End a server by SIGTERM, and kill the processes of its group that are left."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a stuck server ignores SIGTERM
        process.wait(timeout_s + GROUP_EXIT_S)
    deadline = time.monotonic() + GROUP_EXIT_S
    while process.poll() is not None and time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a server and the other processes of its group by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
