from __future__ import annotations

import io
import json
import re
import shlex
import socket
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from tests.helpers.answers import answering
from tritonclip import Health, ModelInfo
from tritonclip._cli import report
from tritonclip._cli.main import _show_warnings_once, cli, main
from tritonclip._cli.options import parse_headers
from tritonclip._types import ModelStatistics

TWO = ["a cat", "a dog"]
"""Labels without a warning."""


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "cat.png"
    Image.new("RGB", (4, 4)).save(path)
    return str(path)


@pytest.fixture
def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def failure(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tritonclip: error: ")
    assert err.count("\n") == 1
    return code, err


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["classify", "missing.jpg", "a cat"], "missing.jpg: no such file"),
        (["classify", "IMAGE", "missing.jpg", "a cat"], "missing.jpg: no such file; if it is a label"),
        (["classify", "IMAGE", "a cat", "--label", "a dog"], "a cat: no such file"),
        (["classify", "IMAGE", "--labels-file", "missing.txt"], "--labels-file missing.txt: cannot read"),
        (["classify", "IMAGE", "--label", " ", "--label", "a cat"], "label 0: it is blank"),
        (["classify", "IMAGE", *TWO, "--template", "no place"], "hypothesis_template"),
        (
            ["classify", "IMAGE", *TWO, "--template", "a {}", "--template", "none"],
            "hypothesis_template 'none'",
        ),
        (
            ["classify", "IMAGE", *TWO, "--templates-file", "missing.txt"],
            "--templates-file missing.txt: cannot",
        ),
        (["classify", "IMAGE", *TWO, "--top-k", "0"], "top_k"),
        (["classify", "IMAGE", "--top-k", "two"], "--top-k"),
        (["classify", "IMAGE", *TWO, "--threshold", "2"], "threshold"),
        (["classify", "IMAGE", "--batch-size", "0"], "batch_size"),
        (["classify", "IMAGE", "--protocol", "soap"], "--protocol"),
        (["classify", "IMAGE", *TWO, "--url", "http://host", "--protocol", "grpc"], "contradicts"),
        (["classify", "IMAGE", *TWO, "--timeout", "0"], "timeout_s"),
        (["classify", "IMAGE", "--header", "no colon"], "NAME:VALUE"),
        (["classify", "IMAGE", "--json", "--csv"], "--json and --csv: choose one"),
        (["classify", "IMAGE", "--json", "-o", "x.json"], "--json is for standard output"),
        (["classify", "IMAGE", "--resume"], "--resume needs --output"),
        (["classify", "IMAGE", *TWO, "-o", "x.npy"], "must end in .jsonl, .csv, .json or .parquet"),
        (["classify"], "IMAGE"),
        (["embed"], "IMAGE_OR_TEXT"),
        (["embed", "missing.jpg"], "missing.jpg: no such file"),
        (["embed", "IMAGE", "--output", "vectors.txt"], ".npy or .parquet"),
        (["similarity", "IMAGE"], "no text to compare with"),
        (["similarity", "IMAGE", "-t", " "], "text 0: it is blank"),
        (["paint"], "paint"),
        (["health", "extra"], "extra"),
        (["completion", "tcsh"], "tcsh"),
        ([], "Missing command"),
    ],
)
def test_invalid_usage_or_input_exits_with_2(args: list[str], part: str, image: str, capsys: Any) -> None:
    code, err = failure(capsys, *[image if arg == "IMAGE" else arg for arg in args])
    assert code == 2
    assert part in err


@pytest.mark.parametrize(
    "command",
    [
        ["embed"],
        ["classify", "-l", "a cat", "-l", "a dog"],
        ["similarity", "-t", "a cat"],
        ["index", "--to", "x"],
    ],
)
def test_strict_run_over_a_directory_with_psd_ends_before_a_request(
    command: list[str], image: str, unused_address: str, capsys: Any
) -> None:
    Path(image).with_name("IMG_1.PSD").touch()
    code, err = failure(capsys, *command, Path(image).parent, "--strict", "--url", unused_address)
    assert code == 2
    assert "would leave out 1 file: 1 .psd (format that is not supported; convert it" in err


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("command", [["models"], ["stats"], ["embed", "--text", "a cat"]])
def test_unreachable_server_exits_with_3(
    command: list[str], protocol: str, unused_address: str, capsys: Any
) -> None:
    code, err = failure(capsys, *command, "--url", unused_address, "--protocol", protocol, "--attempts", "1")
    assert code == 3
    assert f"{protocol}://{unused_address}" in err


@pytest.mark.parametrize(
    "args",
    [
        ["classify", "IMAGE", *TWO],
        ["classify", "IMAGE", "IMAGE", *TWO, "--batch-size", "1", "--preprocess", "client"],
        ["embed", "IMAGE"],
        ["embed", "--text", "a cat"],
        ["similarity", "IMAGE", "a cat"],
    ],
)
def test_unavailable_server_fails_a_run_at_its_first_request(
    args: list[str], image: str, capsys: Any
) -> None:
    with answering() as server:
        server.status = 503
        options = ["--url", server.url, "--attempts", "1"]
        code, err = failure(capsys, *[image if arg == "IMAGE" else arg for arg in args], *options)
    assert code == 3
    assert server.url in err
    # One for each batch, and one with a harmless image; a run in progress repeats a request for 60 s.
    assert 1 <= len(server.bodies) <= 4


def test_unreachable_server_leaves_no_journal(
    image: str, unused_address: str, tmp_path: Path, capsys: Any
) -> None:
    output = ["-o", tmp_path / "out.csv", "--url", unused_address, "--attempts", "1"]
    code, _ = failure(capsys, "classify", image, *TWO, *output)
    assert code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]


def test_health_of_unreachable_server_is_not_ok(unused_address: str, capsys: Any) -> None:
    assert main(["health", "--json", "--url", unused_address, "--attempts", "1"]) == 3
    out, err = capsys.readouterr()
    endpoint = f"grpc://{unused_address}"
    assert json.loads(out) == {"ok": False, "endpoints": [{"endpoint": endpoint, "ok": False}]}
    assert err.startswith("tritonclip: error: ")
    assert err.count("\n") == 1


def test_url_is_read_from_the_environment(
    unused_address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONCLIP_URL", f"http://{unused_address}")
    code, err = failure(capsys, "models", "--attempts", "1")
    assert code == 3
    assert f"http://{unused_address}" in err


@pytest.mark.parametrize("args", [["--help"], ["classify", "--help"], ["similarity", "-h"], ["health", "-h"]])
def test_help_lists_the_exit_codes(args: list[str], capsys: Any) -> None:
    assert main(args) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "Exit codes: 0 ok; 1 server or inference error; 2 usage or invalid input, also if one of many" in text
    )
    assert "failed; 3 server unavailable, not ready, or too slow; 130 interrupted" in text


@pytest.mark.parametrize("command", ["classify", "embed", "similarity"])
def test_help_lists_options_in_groups_with_the_connection_last(command: str, capsys: Any) -> None:
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", "Output:", "Requests:", "Connection:"]
    sections = {title: takewhile(bool, lines[lines.index(title) :]) for title in titles}
    options = {
        title: re.findall(r"^  (?:-\w, )?(--[\w-]+)", "\n".join(part), re.M)
        for title, part in sections.items()
    }
    assert options["Connection:"] == [
        *("--url", "--protocol", "--timeout", "--api-key", "--header"),
        *("--ca-file", "--cert-file", "--key-file", "--compression", "--attempts"),
    ]
    assert options["Output:"][:4] == ["--json", "--jsonl", "--csv", "--output"]
    defined = [one.opts[-1] for one in cli.commands[command].params if isinstance(one, click.Option)]
    assert sorted(option for part in options.values() for option in part) == sorted([*defined, "--help"])


@pytest.mark.parametrize("command", ["classify", "embed", "similarity"])
def test_examples_of_help_are_valid_usage(
    command: str, image: str, unused_address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example goes as far as its first request, which fails because there is no server."""
    assert main([command, "--help"]) == 0
    examples = re.findall(rf"^    .*?tritonclip ({command} .*)$", capsys.readouterr().out, re.M)
    monkeypatch.chdir(Path(image).parent)
    monkeypatch.setenv("TRITONCLIP_URL", unused_address)
    photos = Path("photos")
    photos.mkdir()
    Image.new("RGB", (4, 4)).save(photos / "a.png")
    Image.new("RGB", (4, 4)).save("photo.jpg")
    for name in ("labels.txt", "texts.txt"):
        Path(name).write_text("a cat\na dog\n")
    formats = {"--json", "--csv", ".parquet"}
    for example in examples:
        words = shlex.split(re.split(r" [|<>] ", example)[0])
        formats = {one for one in formats if one not in example}
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"photo.jpg\n")))
        assert main([*words, "--attempts", "1"]) == 3, example
    assert not formats


def test_version_option_prints_the_version(capsys: Any) -> None:
    import tritonclip

    assert main(["--version"]) == 0
    assert tritonclip.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: Any) -> None:
    assert main(["completion", shell]) == 0
    assert "_TRITONCLIP_COMPLETE" in capsys.readouterr().out


def test_completion_suggests_matching_options(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TRITONCLIP_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "tritonclip classify --lab")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    words = capsys.readouterr().out.splitlines()
    assert [word for word in words if word.startswith("--")] == ["--label", "--labels-file"]


def test_health_prints_one_row_per_check(capsys: Any) -> None:
    state = Health(live=True, ready=False, models={"clip_zero_shot": True})
    report.health([("grpc://h:1", state), ("grpc://h:2", None)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    one = [["grpc://h:1"], ["live", "yes"], ["ready", "NO"], ["clip_zero_shot", "yes"]]
    assert lines == [*one, ["grpc://h:2"], ["answers", "NO"]]


def test_deep_health_prints_the_inference(capsys: Any) -> None:
    state = Health(live=True, ready=True, models={}, inference="overloaded", reason="overloaded: waited 6 s")
    report.health([("grpc://h:1", state)])
    assert capsys.readouterr().out.rstrip().splitlines()[-1].split(maxsplit=2) == [
        "inference",
        "overloaded",
        "overloaded: waited 6 s",
    ]


def test_models_and_statistics_are_printed_as_tables(capsys: Any) -> None:
    info = ModelInfo(
        name="m", checkpoint="a/b", revision="c" * 40, sha256="d" * 64, random_weights=True, logit_scale=100.0
    )
    other = replace(info, name="other", sha256="e" * 64)
    report.models([info, replace(info, name="n"), other])
    out = capsys.readouterr().out
    for text in ("d" * 64, "e" * 64):
        assert out.count(text) == 1
    assert re.findall(r"^models +(.*)$", out, re.M) == ["m, n", "other"]
    assert "RANDOM" in out
    report.statistics(
        [
            ModelStatistics(
                name="text_encoder",
                version="1",
                requests=7,
                failures=1,
                rows=6,
                executions=4,
                mean_ms=1.25,
                queue_ms=0.75,
                compute_ms=1.0,
            )
        ]
    )
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["text_encoder", "7", "1", "4", "1.5", "1.2", "0.8", "1.0"]


def test_headers_are_parsed_and_malformed_ones_not_repeated() -> None:
    assert parse_headers(("X-Team: vision", "a:b:c")) == {"X-Team": "vision", "a": "b:c"}
    for wrong in ("secret", ": secret"):
        with pytest.raises(click.UsageError) as info:
            parse_headers((wrong,))
        assert "secret" not in info.value.format_message()


def test_warnings_are_one_line_and_printed_once(capsys: Any) -> None:
    show = _show_warnings_once()
    for text in ("label 1\nhas [bold]many[/bold] tokens " + "x" * 200, "other", "other"):
        show(text, UserWarning, "file", 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("tritonclip: warning: label 1 has [bold]many[/bold] tokens xxx")
    assert lines[1:] == ["tritonclip: warning: other"]
