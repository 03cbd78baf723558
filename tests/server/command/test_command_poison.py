"""Runs of the command over files that cannot be used or that make every request with them fail."""

import json
import os
import socket

import pytest

from tests.helpers.command import run_command
from tests.helpers.killing import journal_of
from tests.helpers.network import count_calls
from tests.helpers.pictures import encode, noise

POISON = b"this file ends the server"
"""Marks the requests that a proxy in front of the server rejects."""


@pytest.fixture
def calls(server):
    with count_calls(server, "grpc") as counted:
        counted.rejects = lambda body: POISON in body
        yield counted


@pytest.fixture
def good(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(noise(40, 30, seed=number), "JPEG"))
    return paths


@pytest.fixture
def poison(tmp_path):
    path = tmp_path / "poison.jpg"
    path.write_bytes(encode(noise(40, 30, seed=9), "JPEG") + POISON)
    return path


def through(calls, command, *arguments, **options):
    """Run a command through the proxy, with hardly any patience."""
    patience = ["--attempts", 1, "--patience", 0.01, "--batch-size", 2, "--concurrency", 1]
    return run_command(command, *arguments, "--url", calls.url, *patience, **options)


@pytest.mark.parametrize(
    "command", [["embed"], ["classify", "-l", "a dog", "-l", "a cat"], ["similarity", "-t", "a"]]
)
def test_first_file_that_makes_requests_fail_costs_only_its_own_line(calls, good, poison, command):
    done = through(calls, *command, poison, *good, "--jsonl")
    assert done.returncode == 2
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["input"] for record in records] == [str(path) for path in (poison, *good)]
    assert ["error" in record for record in records] == [True, False, False, False, False]
    assert done.stderr.startswith(f"tritonclip: error: {poison}: the server accepts no more requests")
    assert "The server answers requests without this image." in done.stderr


def test_resumed_run_does_not_send_a_poison_file_again(calls, good, poison, tmp_path):
    file = tmp_path / "out.jsonl"
    arguments = ["embed", poison, *good, "-o", file]
    last = good[-1].read_bytes()
    calls.rejects = lambda body: POISON in body or any(last in one for one in calls.bodies)  # then an outage
    assert through(calls, *arguments).returncode == 3
    recorded = [json.loads(line) for line in journal_of(file).read_bytes().splitlines()[1:]]
    assert "error" in recorded[0]
    sent = len(calls.bodies)
    calls.rejects = lambda body: POISON in body
    done = through(calls, *arguments, "--resume")
    assert done.returncode == 2
    assert not any(POISON in body for body in calls.bodies[sent:])
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["input"] for record in records] == [str(path) for path in (poison, *good)]
    assert ["error" in record for record in records] == [True, False, False, False, False]


def test_each_unusable_file_costs_only_its_own_line(calls, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    bad = [
        f"{name}.jpg" for name in ("damaged", "empty", "gone", "folder", "pipe", "socket", "text", "nul\0")
    ]
    (tmp_path / "damaged.jpg").write_bytes(good[0].read_bytes()[:300])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    listed = [name for pair in zip(bad, [path.name for path in good] * 2, strict=True) for name in pair]
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.jpg")
        done = through(calls, "embed", "-", "--jsonl", stdin="\n".join(listed))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["input"] for record in records] == listed
    assert [record["input"] for record in records if "error" in record] == bad
    assert (done.returncode, done.stderr.count("\n")) == (2, len(bad))


def test_folder_with_psd_is_embedded_and_the_rest_is_counted(calls, good, tmp_path):
    (tmp_path / "IMG_1.PSD").touch()
    (tmp_path / "notes.txt").touch()
    done = through(calls, "embed", tmp_path, "--json")
    assert done.returncode == 0
    assert done.stderr.startswith(
        "tritonclip: skipped 2 files: 1 .psd (format that is not supported; convert"
    )
    answer = json.loads(done.stdout)
    assert [record["input"] for record in answer["results"]] == [str(path) for path in good]
    assert [(kind["suffix"], kind["count"]) for kind in answer["skipped"]] == [(".psd", 1), (".txt", 1)]


def test_index_goes_past_a_poison_file_and_lists_what_it_left_out(calls, good, poison, tmp_path):
    pytest.importorskip("lancedb")
    (tmp_path / "IMG_1.PSD").touch()
    for _ in range(2):
        done = through(calls, "index", tmp_path, "--to", tmp_path / "photos.index", "--json")
        assert done.returncode == 2
        assert f"error: {poison}: the server accepts no more requests" in done.stderr
        summary = json.loads(done.stdout)["summary"]
        assert (summary["total"], summary["failed"]) == (len(good), 1)
        assert [(kind["suffix"], kind["count"]) for kind in summary["skipped"]] == [(".psd", 1)]
