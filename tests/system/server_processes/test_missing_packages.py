"""The command `tritonclip-server` in an interpreter without the packages of its extras."""

import json

import pytest

from tests.helpers.servers import run_python

CODE = """
import json, sys
sys.modules["tritonclip"] = None  # an import of it fails
from click.testing import CliRunner
from tritonclip_server._cli import main
results = {}
for line in sys.argv[1:]:
    done = CliRunner().invoke(main, line.split())
    results[line] = done.exit_code, done.output
print(json.dumps(results))
"""
WITHOUT_CLIENT = ["prepare --help", "serve --help", "rollout deploy --help"]
WITH_CLIENT = ["evaluate --help", "benchmark bulk --help"]


@pytest.fixture(scope="module")
def results():
    """Exit code and output of each command line, all in one interpreter."""
    done = run_python(CODE, *WITHOUT_CLIENT, *WITH_CLIENT)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", WITHOUT_CLIENT)
def test_command_does_not_need_the_client_package(results, line):
    code, output = results[line]
    assert code == 0
    assert output.startswith(f"Usage: main {line.removesuffix(' --help')} ")


@pytest.mark.parametrize("line", WITH_CLIENT)
def test_missing_package_is_reported_in_one_line_with_the_pip_command(results, line):
    code, output = results[line]
    assert code == 1
    assert output.startswith("Error: the package tritonclip is missing; install it with: pip install ")
    assert output.count("\n") == 1
