"""The README commands that call a gateway, run unchanged."""

import json
import re
import subprocess

import pytest

from tests.helpers.programs import require
from tests.helpers.servers import ROOT

PAGES = [ROOT / "README.md", ROOT / "client/src/tritonclip/gateway/README.md"]


def blocks(language):
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            if ":8080" in block:
                yield block


def commands():
    """Yield each command; a line that ends in a pipe continues."""
    for block in blocks("sh"):
        yield from re.findall(r"(?:.*\|\n)*.*\n", block)


def test_all_commands_are_found():
    assert len(list(commands())) == 7


@pytest.mark.parametrize("command", list(commands()))
def test_curl_command_succeeds(open_gateway, command):
    require("curl", "curl")
    text = command.replace("localhost:8080", open_gateway.url.removeprefix("http://"))
    done = subprocess.run(["bash", "-ec", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer
    if "/v1/classify" in command:
        assert answer["results"][0]["predictions"][0]["label"] == "the digit 7"
    elif "/v1/similarity" in command:
        first, second = answer["results"][0]["similarities"]
        assert first > second
    else:
        vector = answer["data"][0]
        vector = vector["embedding"] if isinstance(vector, dict) else vector
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-5)


def test_python_block_succeeds(open_gateway):
    (block,) = blocks("python")
    names: dict = {}
    exec(compile(block.replace("http://localhost:8080", open_gateway.url), "README.md", "exec"), names)
    assert sum(value * value for value in names["vector"]) == pytest.approx(1, abs=1e-5)
    names["client"].close()
