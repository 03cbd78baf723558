"""A repository with a broken part: `serve.py` reports the part and the reason, and leaves nothing behind."""

import functools
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers.servers import ROOT
from tritonclip_server.serving.launcher import remove_stale_regions


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_text("{}", encoding="utf-8")


def processes_of(models):
    """Return the processes whose command line names the repository."""
    listed = subprocess.run(["ps", "-eo", "pid=,args=", "-ww"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if f"={models}" in line or f"{models}/" in line]


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        pytest.param(
            "vision_encoder/1/*.safetensors",
            truncate,
            "incomplete metadata|MetadataIncomplete",
            id="cut weights",
        ),
        pytest.param(
            "text_encoder/1/tokenizer.json", os.unlink, "tokenizer.json|No such file", id="no tokenizer"
        ),
        slow("text_encoder/1/*.safetensors", os.unlink, "No such file", id="no weights"),
        slow("image_preprocess/1/processor.json", empty, ".", id="empty settings of images"),
        slow("similarity/1/similarity.json", empty, "logit_scale", id="no logit scale"),
    ],
)
def test_model_that_does_not_load_is_reported(fault_repository, tmp_path, file, damage, reason):
    models = shutil.copytree(fault_repository, tmp_path / "models")
    (found,) = models.glob(file)
    damage(found)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    remove_stale_regions()
    process = subprocess.Popen(
        [
            sys.executable,
            "scripts/serve.py",
            str(models),
            *(f"--{p}-port=0" for p in ("http", "grpc", "metrics")),
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    output, log = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "ready" not in output
    error = log[log.index("error: Triton exited while it was loading the models:\n") :]
    model = file.partition("/")[0]
    assert f"'{model}'" in error
    assert re.search(reason, error), error
    assert list(scratch.glob("tritonclip-*")) == []
    assert remove_stale_regions() == []
    assert not processes_of(models)
