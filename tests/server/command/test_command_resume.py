"""Runs of the command that are killed or interrupted and then resumed, against the real server."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.pictures import encode, noise

COMMAND = Path(sys.executable).parent / "tritonclip"
IMAGES = 300
INPUTS_BEFORE_SIGNAL = 200
PATIENCE_S = 120
LABELS = ["-l", "a red circle", "-l", "a blue square"]
ALONE = ["--batch-size", "1", "--concurrency", "1"]
"""One image per request, one request at a time, because the last digits of a result depend on its batch."""


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return the paths of all inputs: 20 files, repeated, of which one is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(20):
        (folder / f"{index:02}.jpg").write_bytes(encode(noise(40, 30, seed=index), "JPEG"))
    (folder / "07.jpg").write_bytes(b"not an image")
    return [str(folder / f"{index * 7 % 20:02}.jpg") for index in range(IMAGES)]


def command(server, file, *options):
    verb = ["embed"] if file.suffix == ".npy" else ["classify", *LABELS]
    return [COMMAND, *verb, "-", "--url", server.grpc_url, "--output", file, *options]


def finish(server, file, names, *options):
    """Run to the end."""
    listed = "\n".join(names)
    return subprocess.run(
        command(server, file, *options), input=listed, capture_output=True, text=True, check=False
    )


def count_lines(path):
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def stopped(server, file, names, number, *options):
    """Stop a run by a signal while its list of inputs is still open, so that it cannot have ended."""
    journal = Path(f"{file}.partial")
    line = command(server, file, *options)
    enough = count_lines(journal) + 30
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdin.write("".join(f"{name}\n" for name in names[:INPUTS_BEFORE_SIGNAL]))
        run.stdin.flush()
        end = time.monotonic() + PATIENCE_S
        while count_lines(journal) < enough and run.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        ended = run.poll()
        run.send_signal(number)
        try:
            run.wait(PATIENCE_S)
        finally:
            run.kill()
        err = run.stderr.read()
    assert ended is None, err
    assert count_lines(journal) >= enough, err
    assert not file.exists()
    return run.returncode, err, journal


def sorted_bytes(path):
    """Return the lines of a file sorted by input, or the rows of an array with their names."""
    if path.suffix != ".npy":
        return sorted(path.read_bytes().splitlines())
    inputs = path.with_name(f"{path.stem}.inputs.jsonl").read_bytes().splitlines()
    rows = [row.tobytes() for row in np.load(path)]
    return sorted(zip(inputs, rows, strict=True))


@pytest.mark.parametrize(
    ("suffix", "number"),
    [
        ("jsonl", signal.SIGKILL),
        ("csv", signal.SIGKILL),
        ("npy", signal.SIGKILL),
        ("jsonl", signal.SIGINT),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(server, names, tmp_path, suffix, number):
    whole, resumed = tmp_path / f"whole.{suffix}", tmp_path / f"resumed.{suffix}"
    assert finish(server, whole, names, *ALONE).returncode == 2
    _, _, journal = stopped(server, resumed, names, number, *ALONE)
    with journal.open("ab") as file:
        file.write(b'{"input": "torn')
    done = finish(server, resumed, names, *ALONE, "--resume")
    assert (done.returncode, journal.exists()) == (2, False)
    assert " from earlier runs; wrote " in done.stdout
    assert sorted_bytes(resumed) == sorted_bytes(whole)
    assert len(sorted_bytes(whole)) >= IMAGES


def test_resumed_run_loses_and_repeats_nothing_with_other_batches(server, names, tmp_path):
    file = tmp_path / "out.jsonl"
    few = ["--batch-size", "4", "--concurrency", "2"]  # leaves enough inputs for two interruptions
    stopped(server, file, names, signal.SIGKILL, *few)
    stopped(server, file, names, signal.SIGKILL, *few, "--resume")
    assert finish(server, file, names, "--resume").returncode == 2
    assert sorted(json.loads(line)["input"] for line in file.read_text().splitlines()) == sorted(names)


def test_interrupt_says_how_to_continue(server, names, tmp_path):
    code, err, journal = stopped(server, tmp_path / "out.csv", names, signal.SIGINT)
    assert code == 130
    lines = [line for line in err.splitlines() if "not an image" not in line and "07.jpg" not in line]
    assert lines[0].startswith(f"tritonclip: warning: {journal} keeps ")
    assert lines[1:] == ["tritonclip: error: interrupted"]


def test_journal_of_another_run_is_rejected(server, names, tmp_path):
    file = tmp_path / "out.csv"
    _, _, journal = stopped(server, file, names, signal.SIGKILL)
    kept = journal.read_bytes()
    for options, part in (
        ([], "continue it with --resume, or delete that file"),
        (["--resume", "-l", "a third label"], "different labels"),
        (["--resume", "--top-k", "1"], "different top_k"),
    ):
        done = finish(server, file, names, *options)
        assert done.returncode == 2
        assert part in done.stderr
        assert done.stderr.count("\n") == 1
    assert journal.read_bytes() == kept


def test_complete_file_is_not_changed(server, names, tmp_path):
    file = tmp_path / "out.jsonl"
    finish(server, file, names[:3])
    shutil.copy(file, tmp_path / "copy")
    done = finish(server, file, names, "--resume")
    assert (done.returncode, done.stderr) == (0, f"tritonclip: {file} is complete; nothing to do\n")
    assert file.read_bytes() == (tmp_path / "copy").read_bytes()
