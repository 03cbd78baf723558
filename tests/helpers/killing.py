"""Runs of the command that are stopped by a signal while they work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.waiting import wait_until

COMMAND = Path(sys.executable).parent / "tritonclip"
ALONE = ("--batch-size", "1", "--concurrency", "1")
"""One image per request, one request at a time, because the last digits of a result depend on its batch."""


def bulk_command(url: str, file: Path, *options: object) -> list[str]:
    """Return a command that reads a list of images and writes a file: `embed` for .npy, else `classify`."""
    verb = ["embed"] if file.suffix == ".npy" else ["classify", "-l", "a red circle", "-l", "a blue square"]
    return [str(COMMAND), *verb, "-", "--url", url, "--output", str(file), *map(str, options)]


def journal_of(file: Path) -> Path:
    """Return the journal of an unfinished run to a file."""
    return Path(f"{file}.partial")


def run_and_signal(
    command: list[str], file: Path, names: list[str], number: int, records: int = 10
) -> tuple[int, str]:
    """Send a signal to a run after it has kept some records; return its exit code and standard error.

    The list of inputs stays open, so that the run cannot end before.
    """

    def count_records() -> int:
        return len(journal_of(file).read_bytes().splitlines()) if journal_of(file).exists() else 0

    enough = count_records() + records
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdin and run.stderr
        run.stdin.write("".join(f"{name}\n" for name in names))
        run.stdin.flush()
        try:
            wait_until(
                lambda: run.poll() is not None or count_records() >= enough, "too few records", timeout_s=120
            )
            ended = run.poll()
            run.send_signal(number)
            run.wait(120)
        finally:
            run.kill()
        err = run.stderr.read()
    assert ended is None, err
    assert not file.exists()
    return run.returncode, err
