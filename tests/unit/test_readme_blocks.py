"""Every code block of the documentation is run by a named test, or has a reason why none runs it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.helpers.servers import ROOT
from tritonclip._cli.main import cli
from tritonclip_server._cli import main as server_cli

OUTPUT = "output, which differs from machine to machine"
TESTS = "runs the tests or checks themselves"
DOCKER = "needs a Docker engine"
CLUSTER = "needs a Kubernetes cluster"
HUB = "downloads a checkpoint from the model hub"
NAMES = "has names that the reader replaces"
LONG = "runs for many minutes"
FRAGMENT = "a fragment, or a drawing"

FRESH = "tests/system/readme/test_fresh_checkout.py"
FOLDERS = "tests/server/end_to_end/test_folder_readmes.py"
FRONT = "tests/server/end_to_end/test_readme.py"
GATEWAY = "tests/server/gateway/test_readme.py"
EXAMPLES = "tests/system/client_examples/test_client_examples.py"

BLOCKS: dict[str, dict[str, str]] = {
    "CONTRIBUTING.md": {"make install": TESTS, ".venv/bin/python -m pytest": TESTS},
    "README.md": {
        "python3 -m venv": f"{FRESH}::test_quick_start_with_pip_classifies_a_photo",
        ". .venv/bin/activate": f"{FRESH}::test_quick_start_with_pip_classifies_a_photo",
        "Triton serves": OUTPUT,
        "from tritonclip import Client": f"{FRONT}::test_python_examples_run",
        "[{'score'": OUTPUT,
        "tritonclip classify scripts": f"{FRONT}::test_shell_examples_run",
        "scripts/demo/images/digit_7.jpg": OUTPUT,
        "curl -s -H": f"{FRONT}::test_shell_examples_run",
        '{"model_name"': OUTPUT,
        "curl -s localhost:8080": f"{GATEWAY}::test_curl_command_succeeds",
        '{"model":': OUTPUT,
        "labels ──►": FRAGMENT,
        "docker compose": DOCKER,
    },
    "client/README.md": {
        "from tritonclip import Client, Zero": f"{FOLDERS}::test_first_python_block_of_the_client_succeeds",
        "from tritonclip import pipeline": (
            f"{FOLDERS}::test_pipeline_block_of_the_client_answers_each_row_of_a_dataset"
        ),
        "loader =": f"{FOLDERS}::test_data_loader_block_of_the_client_embeds_all_images",
        "from tritonclip import Client, collect": (
            f"{FOLDERS}::test_timings_block_of_the_client_prints_the_six_times"
        ),
        "tritonclip classify cat.jpg": f"{FOLDERS}::test_commands_of_the_client_succeed_as_typed",
        "tritonclip classify photos/": f"{FOLDERS}::test_commands_of_the_client_succeed_as_typed",
        "tritonclip completion": f"{FOLDERS}::test_commands_of_the_client_succeed_as_typed",
    },
    "client/examples/README.md": {
        "make -C client/examples node": f"{EXAMPLES}::test_readme_command_runs_the_program",
        "make -C client/examples cpp": f"{EXAMPLES}::test_readme_command_runs_the_program",
        "make -C client/examples go": f"{EXAMPLES}::test_readme_command_runs_the_program",
        "make -C client/examples java": f"{EXAMPLES}::test_readme_command_runs_the_program",
        "curl": f"{EXAMPLES}::test_readme_curl_command_embeds_a_text",
        "header=": f"{EXAMPLES}::test_readme_curl_command_classifies_an_image",
    },
    "client/src/tritonclip/gateway/README.md": {
        "pip install": f"{FRESH}::test_gateway_of_its_readme_serves_in_front_of_make_serve",
        "curl": f"{GATEWAY}::test_curl_command_succeeds",
        "from openai": f"{GATEWAY}::test_python_block_succeeds",
        "tritonclip gateway --url": "opens a port to the network; tests of both dialects run such gateways",
        "X-Timing": OUTPUT,
    },
    "client/src/tritonclip/search/README.md": {
        "pip install": f"{FOLDERS}::test_commands_and_program_of_search_find_the_circle",
        "tritonclip: error": OUTPUT,
        "from tritonclip": f"{FOLDERS}::test_commands_and_program_of_search_find_the_circle",
    },
    "client/src/tritonclip/spark/README.md": {
        "pip install": "installs pyspark, which `make install` does too",
        "from pyspark": "tests/system/spark/test_spark_readme.py::test_readme_example_prints_its_table",
        "+---": "tests/system/spark/test_spark_readme.py::test_readme_example_prints_its_table",
    },
    "client/src/tritonclip/synapse/README.md": {
        "from synapse_sdk": f"{FOLDERS}::test_stage_and_program_of_synapse_label_the_image",
        ".venv/bin/python": f"{FOLDERS}::test_stage_and_program_of_synapse_label_the_image",
        "1.0000": f"{FOLDERS}::test_stage_and_program_of_synapse_label_the_image",
    },
    "docker/README.md": {"docker compose": DOCKER, "docker build": DOCKER},
    "docker/RUNBOOK.md": {"export TRITONCLIP_ADMIN_KEY": NAMES, "version 2 written": OUTPUT},
    "docker/kubernetes/README.md": {
        "kubectl apply": CLUSTER,
        "openssl": (
            "tests/system/docker/test_kubernetes_pods.py::"
            "test_readme_creates_the_secrets_that_the_manifests_use"
        ),
    },
    "docker/monitoring/README.md": {
        "python docker/monitoring/prometheus_rule.py": CLUSTER,
        "promtool": "tests/system/docker/test_monitoring_files.py::test_unit_tests_of_the_rules_pass",
    },
    "docker/nginx/README.md": {"docker run": DOCKER},
    "loadtest/README.md": {
        "make loadtest": NAMES,
        "server {": FRAGMENT,
        "tritonclip-server serve": NAMES,
        ".venv/bin/locust": NAMES,
    },
    "model_repository/README.md": {
        "tritonclip-server prepare": HUB,
        "base64": f"{FOLDERS}::test_base64_command_of_the_models_embeds_the_image",
    },
    "scripts/BENCHMARKS.md": {
        "$ pip install imagecodecs": LONG,
        "TRITONCLIP_LOAD_DEADLINE_S": NAMES,
        ".venv/bin/tritonclip-server prepare": (
            "tests/system/evaluation/test_evaluate.py::"
            "test_documented_accuracy_is_reached_with_repository_option"
        ),
        "899 images": OUTPUT,
    },
    "scripts/README.md": {
        "pip install": HUB,
        "tritonclip-server prepare": HUB,
        "python3 -m venv build/infinity": LONG,
    },
    "scripts/demo/README.md": {
        "from transformers": f"{FRESH}::test_commands_of_the_demo_repeat_its_pictures",
        "python scripts/demo/evaluate.py": f"{FRESH}::test_commands_of_the_demo_repeat_its_pictures",
        "python scripts/demo/evaluation_sets.py": f"{FRESH}::test_commands_of_the_demo_repeat_its_pictures",
        "python scripts/demo/train.py": LONG,
        "python scripts/demo/draw_samples.py": f"{FRESH}::test_commands_of_the_demo_repeat_its_pictures",
        "python -m pytest": TESTS,
    },
    "tests/README.md": {
        "make test-unit": TESTS,
        ".venv/bin/python -m pytest": TESTS,
        "pytestmark": FRAGMENT,
        "with servers.run": FRAGMENT,
    },
    "tests/system/faults/README.md": {"make faults": TESTS},
    "tests/system/fuzz/README.md": {"make fuzz": TESTS},
}
"""Page -> start of a block's first line -> the test that runs the block, or the reason why none does.

A test may leave out commands of its block, and says which.
"""


def pages() -> Iterator[Path]:
    """Yield the pages of the checkout, without hidden and generated folders."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [one for one in names if one not in ("build", "node_modules") and not one.startswith(".")]
        yield from (Path(folder, name) for name in files if name.endswith(".md"))


def blocks(text: str) -> list[str]:
    """Return the fenced and the indented blocks of a page."""
    pattern = r"^```[^\n]*\n(?P<fenced>.*?)^```|(?<=\n\n)(?P<indented>(?: {4}[^\n]*\n)+)"
    found = re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    return [(one["fenced"] or one["indented"]).strip() for one in found]


FOUND = {
    str(page.relative_to(ROOT)): found
    for page in sorted(pages())
    if (found := blocks(page.read_text("utf-8")))
}
ALL = "\n".join(block for found in FOUND.values() for block in found)
NAMED_TESTS = sorted(
    {entry for page in BLOCKS.values() for entry in page.values() if entry.startswith("tests/")}
)


def test_table_has_the_pages_that_have_blocks() -> None:
    assert sorted(BLOCKS) == sorted(FOUND)


@pytest.mark.parametrize("page", FOUND)
def test_each_block_has_one_entry_and_each_entry_one_block(page: str) -> None:
    entries = BLOCKS.get(page, {})
    starts = [[start for start in entries if block.startswith(start)] for block in FOUND[page]]
    assert [
        block.partition("\n")[0] for block, each in zip(FOUND[page], starts, strict=True) if len(each) != 1
    ] == []
    assert sorted(start for each in starts for start in each) == sorted(entries)


@pytest.mark.parametrize("name", NAMED_TESTS)
def test_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert f"\ndef {function}(" in (ROOT / path).read_text("utf-8")


def test_make_targets_of_all_blocks_exist() -> None:
    makefiles = {
        folder: set(re.findall(r"^([\w-]+):", (ROOT / folder / "Makefile").read_text("utf-8"), re.MULTILINE))
        for folder in (".", "client/examples")
    }
    used = re.findall(r"\bmake (?:-C (\S+) )?([a-z-]+)", ALL)
    assert len(used) > 15
    assert [(folder, target) for folder, target in used if target not in makefiles[folder or "."]] == []


def test_scripts_and_tests_of_all_blocks_exist() -> None:
    named = re.findall(
        r"(?<![\w/.-])(?:scripts|tests|loadtest|docker|client)/[\w./*-]+\b",
        ALL,
    )
    assert len(named) > 40
    assert [path for path in named if not list(ROOT.glob(path))] == []


def commands() -> list[str]:
    """Return the calls of the project's two commands in all blocks, without pipes and comments.

    `tritonclip-server benchmark` is left out, because its import takes seconds.
    """
    lines = re.sub(r" \\\n", " ", ALL).splitlines()
    called = [
        re.search(r"(?:^|[|] |/)(tritonclip(?:-server)? (?!benchmark)[a-z].*)", line.strip())
        for line in lines
    ]
    return [re.split(r" [|>#&]| {2,}#", one[1])[0] for one in called if one]


@pytest.mark.parametrize("line", commands())
def test_command_and_its_options_exist(line: str) -> None:
    program, *words = shlex.split(line)
    command: click.Command = {"tritonclip": cli, "tritonclip-server": server_cli}[program]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    assert [word for word in words if re.match("--?[a-z]", word) and word not in options] == []


def test_calls_of_the_commands_are_found() -> None:
    assert len(commands()) > 25
