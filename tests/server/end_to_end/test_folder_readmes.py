"""The examples of the folders' READMEs run against the real server, next to the files that they name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from synapse_sdk import CanonicalIR
from torch.utils.data import DataLoader
from transformers.pipelines.pt_utils import KeyDataset

from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tests.server.synapse.synapse_messages import by_content
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton

SAMPLES = ROOT / "scripts" / "demo" / "images"
CIRCLE, SEVEN = SAMPLES / "red_circle.jpg", SAMPLES / "digit_7.jpg"
CLIENT = "client/README.md"
SEARCH = "client/src/tritonclip/search/README.md"
SYNAPSE = "client/src/tritonclip/synapse/README.md"


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test, with images, labels and a home directory."""
    for folder in ("photos", "more/2026", "home/.config/fish/completions"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(CIRCLE, tmp_path / "cat.jpg")
    shutil.copy(CIRCLE, tmp_path / "photos")
    shutil.copy(SEVEN, tmp_path / "photos" / "dog.jpg")
    shutil.copy(SAMPLES / "digit_3.png", tmp_path / "more" / "2026")
    (tmp_path / "labels.txt").write_text("a cat\na dog\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(server: EmbeddedTriton, block: str, **names: Any) -> dict[str, Any]:
    """Run a Python block whose undefined names have the given values; return all names at its end."""
    code = block.replace("localhost:8001", server.grpc_url)
    code = code.replace("https://example.com/", "photos/")  # tests reach no other machine
    exec(compile(code, "README.md", "exec"), names)
    return names


def type_commands(server: EmbeddedTriton, commands: str, folder: Path) -> str:
    """Run commands in a shell that finds the installed programs; return what they print."""
    home = {"HOME": str(folder / "home"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", commands],
        cwd=folder,
        env=os.environ | home | {"TRITONCLIP_URL": server.grpc_url},  # in place of the default port
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_python_block_of_the_client_succeeds(server: EmbeddedTriton, place: Path) -> None:
    names = run(server, blocks(CLIENT, "python")[0])
    assert names["row"].shape == (512,)


def test_pipeline_block_of_the_client_answers_each_row_of_a_dataset(
    server: EmbeddedTriton, place: Path
) -> None:
    dataset = [{"image": Image.open(path)} for path in (CIRCLE, SEVEN, CIRCLE)]
    names = run(server, blocks(CLIENT, "python")[1], KeyDataset=KeyDataset, dataset=dataset)
    assert {each["label"] for each in names["answer"]} == {"cat", "dog"}


def test_data_loader_block_of_the_client_embeds_all_images(server: EmbeddedTriton, place: Path) -> None:
    pictures = [Image.open(path) for path in (CIRCLE, SEVEN)]
    images = datasets.Dataset.from_dict({"image": [str(CIRCLE)]}).cast_column("image", datasets.Image())
    with Client(server.grpc_url) as clip:
        names = run(
            server,
            blocks(CLIENT, "python")[2],
            clip=clip,
            DataLoader=DataLoader,
            dataset=pictures,
            images=images,
        )
    assert [one.shape for one in names["embeds"]] == [(2, 512)]


def test_timings_block_of_the_client_prints_the_six_times(
    server: EmbeddedTriton, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run(server, blocks(CLIENT, "python")[3])
    assert "wire_ms" in capsys.readouterr().out
    assert names["timings"]


def test_every_python_block_of_the_client_is_tested() -> None:
    assert len(blocks(CLIENT, "python")) == 4


FIRST, *OTHERS = blocks(CLIENT, "console")


@pytest.mark.parametrize("block", [pytest.param(FIRST, marks=pytest.mark.slow), *OTHERS])
def test_commands_of_the_client_succeed_as_typed(server: EmbeddedTriton, place: Path, block: str) -> None:
    printed = type_commands(server, block, place)
    if "index" in block:
        assert (place / "vectors.npy").exists() and (place / "found.html").exists()
        assert "clip_zero_shot" in printed
    elif "completion" in block:
        written = [place / "home" / name for name in (".tritonclip.bash", ".tritonclip.zsh")]
        assert all("tritonclip" in path.read_text("utf-8") for path in written)
    else:
        assert "a dog" in printed


@pytest.mark.slow
def test_commands_and_program_of_search_find_the_circle(
    server: EmbeddedTriton, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first and the last command install packages and run the page; they are left out."""
    text = (ROOT / SEARCH).read_text("utf-8")
    install, *commands, page = re.findall(r"^ {4}(.*)$", text.partition("```")[0], re.MULTILINE)
    assert install.startswith("pip install ") and page.startswith("tritonclip gateway ")
    assert len(commands) == 2
    printed = type_commands(server, "\n".join(commands), place)
    assert "red_circle.jpg" in printed and (place / "results.html").exists()
    (program,) = blocks(SEARCH, "python")
    run(server, program)
    assert "red_circle.jpg" in capsys.readouterr().out


def test_stage_and_program_of_synapse_label_the_image(server: EmbeddedTriton) -> None:
    (command,) = blocks(SYNAPSE, "sh")
    printed = type_commands(server, command.replace("localhost:8001", server.grpc_url), ROOT)
    (shown,) = blocks(SYNAPSE, "text")[:1]
    assert printed.splitlines()[:2] == shown.splitlines()[:2]
    (program,) = blocks(SYNAPSE, "python")
    answer = run(server, program, message=by_content(str(CIRCLE)).to_json())["answer"]
    assert isinstance(answer, CanonicalIR)


def test_base64_command_of_the_models_embeds_the_image(server: EmbeddedTriton) -> None:
    require("curl", "curl")
    (command,) = [block for block in blocks("model_repository/README.md", "sh") if "base64" in block]
    reply = json.loads(type_commands(server, command.replace("localhost:8000", server.http_url), ROOT))
    (embeds,) = (one["data"] for one in reply["outputs"] if one["name"] == "image_embeds")
    with Client(server.grpc_url) as client:
        np.testing.assert_allclose(embeds, client.embed_images([CIRCLE])[0], atol=1e-4)
