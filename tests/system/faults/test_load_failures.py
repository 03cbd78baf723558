"""A repository with broken parts: `serve.py` reports the parts and the reasons, and leaves nothing behind."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers.servers import ROOT
from tests.system.faults.callers import HOPELESS_S
from tritonclip_server.serving.launcher import remove_stale_regions


def empty(path):
    path.write_text("{}", encoding="utf-8")


def flip_bit(path):
    """Change one bit in the middle of a file: of a weight, which stays a finite number."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def processes_of(models):
    """Return the processes whose command line names the repository."""
    listed = subprocess.run(["ps", "-eo", "pid=,args=", "-ww"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if f"={models}" in line or f"{models}/" in line]


DAMAGED_WEIGHTS = ("vision_encoder/1/*.safetensors", flip_bit, "vision.safetensors was changed or damaged")
NO_TOKENIZER = ("text_encoder/1/tokenizer.json", os.unlink, "tokenizer.json cannot be read .No such file")
EMPTY_SETTINGS_OF_IMAGES = ("image_preprocess/1/processor.json", empty, "processor.json was changed")
NO_LOGIT_SCALE = ("similarity/1/similarity.json", empty, "similarity.json was changed")


@pytest.mark.parametrize(
    "broken",
    [
        [DAMAGED_WEIGHTS, NO_TOKENIZER],
        pytest.param([EMPTY_SETTINGS_OF_IMAGES, NO_LOGIT_SCALE], marks=pytest.mark.slow),
    ],
    ids=["encoders", "other models"],
)
def test_models_that_do_not_load_are_reported(servers, own_repository, tmp_path, broken):
    for file, damage, _ in broken:
        (found,) = own_repository.glob(file)
        damage(found)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    remove_stale_regions()
    servers.command("load failures: its models are broken")
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    done = subprocess.run(
        [sys.executable, "scripts/serve.py", str(own_repository), *ports, "--log-format", "text"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=HOPELESS_S,
        check=False,
    )
    assert done.returncode == 1
    assert "ready" not in done.stdout
    error = done.stderr[done.stderr.index("error: Triton exited while it was loading the models:\n") :]
    for file, _, reason in broken:
        assert re.search(rf"failed to load '{file.partition('/')[0]}' .*(?:{reason})", error), error
    assert list(scratch.glob("tritonclip-*")) == []
    assert remove_stale_regions() == []
    assert not processes_of(own_repository)
