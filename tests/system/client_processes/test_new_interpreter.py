"""The client in a new interpreter: what it imports, how it exits, and its command's output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.answers import answering
from tests.helpers.servers import run_python

COMMAND = Path(sys.executable).parent / "tritonclip"
HEAVY = {
    *("torch", "transformers", "sklearn", "pyarrow", "rich", "click", "aiohttp", "urllib3"),
    *("tritonclient", "tritonclient.http", "tritonclient.grpc", "grpc", "gevent"),
}


@pytest.mark.parametrize(("protocol", "other"), [("grpc", "gevent"), ("http", "grpc")])
def test_libraries_are_imported_when_they_are_needed(protocol: str, other: str) -> None:
    code = f"""
import sys, tritonclip
print(*sys.modules)
from tritonclip._images.fetch import Fetcher
Fetcher().fetch("data:,x", "image 0")
print("urllib3" in sys.modules)
tritonclip.Client(protocol={protocol!r}).close()
print(*sys.modules)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    imported, fetched, connected = done.stdout.splitlines()
    assert not HEAVY & set(imported.split())
    assert fetched == "False"
    assert f"tritonclient.{protocol}" in connected.split()
    assert other not in connected.split()


@pytest.mark.parametrize(("protocol", "module"), [("grpc", "grpc"), ("http", "gevent")])
def test_missing_protocol_dependency_raises_an_error_with_the_pip_command(protocol: str, module: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import tritonclip\n"
        f"try: tritonclip.Client(protocol={protocol!r})\n"
        "except tritonclip.MissingExtraError as error: sys.exit(str(error))"
    )
    done = run_python(code)
    assert f"pip install 'tritonclient[{protocol}]'" in done.stderr


def test_http_client_that_is_not_closed_exits_without_a_warning() -> None:
    with answering() as server:
        code = f"from tritonclip import Client; c = Client({server.url!r}); assert c.health().ok"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_error_of_the_command_is_one_line_without_traceback() -> None:
    with answering() as server:
        server.status = 503
        arguments = ["models", "--url", server.url, "--attempts", "1"]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tritonclip", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr.startswith("tritonclip: error: ")
    assert done.stderr.count("\n") == 1


def test_full_standard_output_is_one_line_and_exit_code_1() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [COMMAND, "completion", "zsh"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("tritonclip: error: cannot write to standard output: ")
    assert done.stderr.count("\n") == 1


def test_bash_completes_an_option_with_the_printed_script() -> None:
    code = """
eval "$(tritonclip completion bash)"
COMP_WORDS=(tritonclip classify --lab) COMP_CWORD=2
_tritonclip_completion tritonclip --lab classify
echo "${COMPREPLY[@]}"
"""
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", code], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "--label --labels-file\n"), done.stderr
