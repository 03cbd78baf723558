"""A run of the command that is killed and then resumed; tests/system/killed_runs has further ones."""

import signal

from tests.helpers.command import run_command
from tests.helpers.killing import ALONE, bulk_command, journal_of, run_and_signal
from tests.helpers.pictures import encode, noise


def test_resumed_run_writes_the_lines_of_an_uninterrupted_one(server, tmp_path):
    names = [str(tmp_path / f"{number}.jpg") for number in range(8)]
    for number, name in enumerate(names):
        content = b"not an image" if number == 5 else encode(noise(40, 30, seed=number), "JPEG")
        (tmp_path / name).write_bytes(content)
    names *= 5
    listed = "\n".join(names)
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    _, *arguments = bulk_command(server.grpc_url, whole, *ALONE)
    assert run_command(*arguments, stdin=listed).returncode == 2
    command = bulk_command(server.grpc_url, resumed, *ALONE)
    assert run_and_signal(command, resumed, names[:30], signal.SIGKILL)[0] == -signal.SIGKILL
    with journal_of(resumed).open("ab") as file:
        file.write(b'{"input": "torn')
    done = run_command(*command[1:], "--resume", stdin=listed)
    assert (done.returncode, journal_of(resumed).exists()) == (2, False)
    assert " from earlier runs; wrote " in done.stdout
    assert sorted(resumed.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert len(whole.read_bytes().splitlines()) == len(names)
