"""The command `tritonclip-server` without the packages of its extras, and the help of its options."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from tritonclip_server import __version__
from tritonclip_server._cli import main

WITHOUT_CLIENT = """
import sys
sys.modules["tritonclip"] = None  # an import of it fails
from tritonclip_server._cli import main
main(sys.argv[1:], prog_name="tritonclip-server")
"""


def run_without_client(*arguments):
    command = [sys.executable, "-c", WITHOUT_CLIENT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [["prepare"], ["serve"], ["rollout", "deploy"]], ids=" ".join)
def test_command_does_not_need_the_client_package(command):
    done = run_without_client(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: tritonclip-server {' '.join(command)}" in done.stdout


@pytest.mark.parametrize("command", [["evaluate"], ["benchmark", "bulk"]], ids=" ".join)
def test_missing_package_is_reported_in_one_line_with_the_pip_command(command):
    done = run_without_client(*command, "--help")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the package tritonclip is missing; install it with: pip install ")
    assert done.stderr.count("\n") == 1


def test_version_is_that_of_the_package():
    assert CliRunner().invoke(main, ["--version"]).output == f"tritonclip-server, version {__version__}\n"


def test_checkpoint_options_of_serve_and_prepare_have_the_same_help():
    helps = [CliRunner().invoke(main, [command, "--help"]).output for command in ("serve", "prepare")]
    parts = [
        text[text.index("--revision") : text.index(last)]
        for text, last in zip(helps, ("--host", "--random"), strict=True)
    ]
    assert parts[0] == parts[1]
    assert all(option in parts[0] for option in ("--precision", "--set", "--labels"))
