"""The example of Spark's README prints the table that the README shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.servers import ROOT
from tritonclip_server.demo.drawing import draw
from tritonclip_server.demo.scenes import Scene
from tritonclip_server.serving.launcher import EmbeddedTriton

README = ROOT / "client" / "src" / "tritonclip" / "spark" / "README.md"


def test_readme_example_prints_its_table(
    spark: Any,
    server: EmbeddedTriton,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = README.read_text("utf-8")
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    expected = re.search(r"```text\n(\+--.*?)```", text, re.DOTALL)
    assert program and expected
    (tmp_path / "photos").mkdir()
    for image in images.iterdir():
        if image.suffix != ".json":
            shutil.copy(image, tmp_path / "photos")
    scene = Scene("shape", "cross", "black", "large", "white", ((0.5, 0.5, 0.6),))
    picture = draw(scene, np.random.default_rng(4), 320, degrade=False)
    picture.save(tmp_path / "photos" / "black_cross.png")
    monkeypatch.chdir(tmp_path)
    code = (
        program[1]
        .replace("localhost:8001", server.grpc_url)
        .replace('load("photos")', f'load("{tmp_path}/photos")')
    )
    exec(compile(code, str(README), "exec"), {})
    printed = capsys.readouterr().out.strip()
    assert printed.splitlines() == expected[1].strip().splitlines()
