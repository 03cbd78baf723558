"""The wheel of the server package, installed and used away from the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.helpers.servers import DEMO_CHECKPOINT, ROOT, Servers
from tritonclip import Client
from tritonclip_server.repository.configs import MODELS, PYTHON_MODELS

CIRCLE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True, cwd=folder)
    (built,) = folder.glob("tritonclip_server-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. Its dependencies are those of this environment, by path."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # A plain path, so that the editable packages of this environment stay invisible.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", "--ignore-installed", wheel], check=True)
    return folder


def test_wheel_holds_the_nine_models_and_the_demo(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    data = "tritonclip_server/model_repository"
    assert {f"{data}/{model}/config.pbtxt" for model in MODELS} <= names
    assert {f"{data}/{model}/1/model.py" for model in PYTHON_MODELS} <= names
    assert len(MODELS) == 9
    assert f"{data}/clip_common/groups.py" in names
    assert "tritonclip_server/demo/checkpoint/model.safetensors" in names
    assert "tritonclip_server/demo/images/labels.json" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_installed_command_serves_a_checkpoint_from_an_empty_folder(
    servers: Servers, environment: Path, tmp_path: Path
) -> None:
    servers.command("the command of the installed wheel starts it")
    command = [environment / "bin" / "tritonclip-server", "serve", DEMO_CHECKPOINT]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--log-format", "text"]
    home = {name: value for name, value in os.environ.items() if not name.startswith("TRITONCLIP_")}
    home |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(
        list(map(str, command)), cwd=tmp_path, env=home, text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            ready = next(line for line in process.stdout if line.startswith("ready"))
            (grpc,) = re.findall(r"grpc (\S+),", ready)
            with Client(grpc) as client:
                best, *_ = client.classify(CIRCLE, ["a blue square", "a red circle"])
        finally:
            process.terminate()
            rest = process.stdout.read()
        assert process.wait() == 0, rest
    assert best["label"] == "a red circle"
