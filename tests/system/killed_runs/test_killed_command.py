"""Runs of the command that are killed or interrupted and then resumed."""

import json
import signal

import numpy as np
import pytest

from tests.helpers.command import run_command
from tests.helpers.killing import ALONE, bulk_command, journal_of, run_and_signal
from tests.helpers.pictures import encode, noise

BEFORE_SIGNAL = 100
"""Number of inputs that a run gets before the signal."""

FEW_IN_FLIGHT = ("--batch-size", "4", "--concurrency", "2")
"""Options with which results arrive before the end of BEFORE_SIGNAL inputs."""


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return the paths of all inputs: 20 files, repeated, of which one is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(20):
        (folder / f"{index:02}.jpg").write_bytes(encode(noise(40, 30, seed=index), "JPEG"))
    (folder / "07.jpg").write_bytes(b"not an image")
    return [str(folder / f"{index * 7 % 20:02}.jpg") for index in range(140)]


def finish(command, names, *options):
    """Run in this process, to the end."""
    return run_command(*command[1:], *options, stdin="\n".join(names))


def sorted_rows(path):
    """Return the lines of a file sorted by input, or the rows of an array with their names."""
    if path.suffix != ".npy":
        return sorted(path.read_bytes().splitlines())
    inputs = path.with_name(f"{path.stem}.inputs.jsonl").read_bytes().splitlines()
    rows = [row.tobytes() for row in np.load(path)]
    return sorted(zip(inputs, rows, strict=True))


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_resumed_run_equals_an_uninterrupted_one(server, names, tmp_path, suffix):
    whole, resumed = tmp_path / f"whole.{suffix}", tmp_path / f"resumed.{suffix}"
    assert finish(bulk_command(server.grpc_url, whole, *ALONE), names).returncode == 2
    command = bulk_command(server.grpc_url, resumed, *ALONE)
    run_and_signal(command, resumed, names[:BEFORE_SIGNAL], signal.SIGKILL)
    with journal_of(resumed).open("ab") as file:
        file.write(b'{"input": "torn')
    assert finish(command, names, "--resume").returncode == 2
    assert sorted_rows(resumed) == sorted_rows(whole)
    assert len(sorted_rows(whole)) >= len(names)


def test_run_killed_twice_with_other_batches_loses_and_repeats_nothing(server, names, tmp_path):
    file = tmp_path / "out.jsonl"
    command = bulk_command(server.grpc_url, file)
    run_and_signal([*command, *FEW_IN_FLIGHT], file, names[:BEFORE_SIGNAL], signal.SIGKILL)
    run_and_signal([*command, *FEW_IN_FLIGHT, "--resume"], file, names[:BEFORE_SIGNAL], signal.SIGKILL)
    assert finish(command, names, "--resume").returncode == 2
    assert sorted(json.loads(line)["input"] for line in file.read_text().splitlines()) == sorted(names)


def test_interrupted_run_says_how_to_continue_and_can_be_continued(server, names, tmp_path):
    file = tmp_path / "out.jsonl"
    command = bulk_command(server.grpc_url, file, *FEW_IN_FLIGHT)
    code, err = run_and_signal(command, file, names[:BEFORE_SIGNAL], signal.SIGINT)
    assert code == 130
    lines = [line for line in err.splitlines() if "not an image" not in line and "07.jpg" not in line]
    assert lines[0].startswith(f"tritonclip: warning: {journal_of(file)} keeps ")
    assert lines[1:] == ["tritonclip: error: interrupted"]
    kept = journal_of(file).read_bytes()
    done = finish(command, names, "--resume", "-l", "a third label")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "different labels" in done.stderr
    assert journal_of(file).read_bytes() == kept
    assert finish(command, names, "--resume").returncode == 2
    assert sorted(json.loads(line)["input"] for line in file.read_text().splitlines()) == sorted(names)
