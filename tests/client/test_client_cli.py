from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tritonclip import Health, Prediction, _cli, _report
from tritonclip._cli import main, split_items


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "cat.png"
    Image.new("RGB", (4, 4)).save(path)
    return str(path)


@pytest.fixture
def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def failure(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tritonclip: error: ")
    assert err.count("\n") == 1
    return code, err


def test_images_then_labels(image: str) -> None:
    assert split_items([image, image, "a cat", "a dog"]) == ([image, image], ["a cat", "a dog"])
    assert split_items([image]) == ([image], [])


def test_a_directory_is_a_label_but_not_first(image: str, tmp_path: Path, capsys: Any) -> None:
    assert split_items([image, str(tmp_path)]) == ([image], [str(tmp_path)])
    assert failure(capsys, "classify", tmp_path, "a cat") == (
        2,
        f"tritonclip: error: {tmp_path}: is a directory; the arguments begin with at least one image file\n",
    )


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["classify", "missing.jpg", "a cat"], "missing.jpg: no such file"),
        (["classify", "IMAGE", "missing.jpg", "a cat"], "missing.jpg: no such file; if it is a label"),
        (["classify", "IMAGE", "a cat", "IMAGE"], "images go before the labels"),
        (["classify", "IMAGE", "--labels-file", "missing.txt"], "--labels-file missing.txt: cannot read"),
        (["classify", "IMAGE", "--label", " "], "label 0: it is blank"),
        (["classify", "IMAGE", "--template", "no place"], "hypothesis_template"),
        (["classify", "IMAGE", "--top-k", "0"], "top_k"),
        (["classify", "IMAGE", "--top-k", "two"], "--top-k"),
        (["classify", "IMAGE", "--threshold", "2"], "threshold"),
        (["classify", "IMAGE", "--protocol", "soap"], "--protocol"),
        (["classify", "IMAGE", "--url", "https://host"], "encrypted"),
        (["classify", "IMAGE", "--url", "http://host", "--protocol", "grpc"], "contradicts"),
        (["classify", "IMAGE", "--timeout", "0"], "timeout_s"),
        (["classify"], "IMAGE"),
        (["embed"], "IMAGE_OR_TEXT"),
        (["embed", "missing.jpg"], "image 0: no such file"),
        (["embed", "IMAGE", "--output", "vectors.txt"], ".npy"),
        (["embed", "--text", " "], "text 0"),
        (["paint"], "paint"),
        (["health", "extra"], "extra"),
        ([], "Missing command"),
    ],
)
def test_usage_and_input_errors(args: list[str], part: str, image: str, capsys: Any) -> None:
    code, err = failure(capsys, *[image if arg == "IMAGE" else arg for arg in args])
    assert code == 2
    assert part in err


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("command", ["classify", "embed", "health"])
def test_no_server(command: str, protocol: str, image: str, nobody: str, capsys: Any) -> None:
    args = [] if command == "health" else [image]
    code, err = failure(capsys, command, *args, "--url", nobody, "--protocol", protocol)
    assert code == 3
    assert f"{protocol}://{nobody}" in err


def test_environment_names_the_server(nobody: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONCLIP_URL", f"http://{nobody}")
    code, err = failure(capsys, "health")
    assert code == 3
    assert f"http://{nobody}" in err


def test_labels_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffKatze, grau\r\n\n  Hund \n# 1".encode())
    assert _cli._read_labels(path) == ["Katze, grau", "Hund", "# 1"]


@pytest.mark.parametrize(("content", "part"), [(b"\n \n", "holds no label"), (b"\xff\n", "cannot read")])
def test_wrong_labels_files(content: bytes, part: str, tmp_path: Path, image: str, capsys: Any) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    code, err = failure(capsys, "classify", image, "--labels-file", path)
    assert code == 2
    assert part in err


@pytest.mark.parametrize("args", [["--help"], ["classify", "--help"], ["embed", "-h"], ["health", "-h"]])
def test_help_tells_the_exit_codes(args: list[str], capsys: Any) -> None:
    assert main(args) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0 ok; 1 server or inference error; 2 usage or invalid input; 3 server unavailable" in text


def test_version(capsys: Any) -> None:
    import tritonclip

    assert main(["--version"]) == 0
    assert tritonclip.__version__ in capsys.readouterr().out


def test_command_in_a_process(nobody: str) -> None:
    code = "import sys; from tritonclip._cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "health", "--url", f"http://{nobody}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_tables_show_every_label_and_the_time(capsys: Any) -> None:
    rows: list[list[Prediction]] = [
        [{"score": 0.75, "label": "[bold]cat[/bold]"}, {"score": 0.25, "label": "dog"}],
        [],
    ]
    _report.predictions(["a.jpg", "b.jpg"], rows, 12.345)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "a.jpg"
    cat, dog = (next(line for line in lines if name in line) for name in ("[bold]cat[/bold]", "dog"))
    assert "0.7500" in cat
    assert "0.2500" in dog
    assert cat.count("━") > dog.count("━") > 0
    assert lines[-1] == "2 images in 12.3 ms"


def test_embeddings_and_health_tables(capsys: Any) -> None:
    _report.embeddings(["a cat"], np.array([[0.5, -0.25]], np.float32), 1.0, Path("v.npy"))
    out = capsys.readouterr().out
    assert "+0.5000 -0.2500" in out
    assert "wrote float32 [1, 2] to v.npy" in out
    _report.health("grpc://h:1", Health(live=True, ready=False, models={"clip_zero_shot": True}))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["grpc://h:1"], ["live", "yes"], ["ready", "NO"], ["clip_zero_shot", "yes"]]
