"""The example programs and curl commands of client/examples, run against a real server."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.network import count_calls
from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tritonclip import Client

EXAMPLES = ROOT / "client" / "examples"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
LABELS = ["ein größerer Kreis", "a red picture", "a circle"]
PROGRAMS = {
    "node": ["node", str(ROOT / "build/examples/node/classify_and_embed.js")],
    "cpp": [str(ROOT / "build/examples/cpp/classify_and_embed")],
    "go": [str(ROOT / "build/examples/go/classify_and_embed")],
    "java": ["java", "-jar", str(ROOT / "build/examples/java/classify_and_embed.jar")],
}
COMMANDS = {
    "node": ["make", "npm", "node"],
    "cpp": ["make", "g++", "pkg-config", "protoc", "grpc_cpp_plugin"],
    "go": ["make", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"],
    "java": ["make", "javac", "jar", "protoc", "grpc_java_plugin"],
}
SLOW = {"java"}  # building takes 30 s
ATTEMPTS = 4
TOLERANCE = 1e-3
# Remove the variables that an outer `make` sets for nested calls of make.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")} | {
    "PYTHON": sys.executable
}


def run(*command):
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, encoding="utf-8", check=False, timeout=500
    )


def apt_packages(language):
    listed = EXAMPLES / language / "apt-packages.txt"
    return " ".join(listed.read_text(encoding="utf-8").split()) if listed.exists() else "nodejs npm make"


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PROGRAMS],
)
def program(request):
    """Command of an example program, which is built if necessary."""
    language = request.param
    packages = apt_packages(language)
    for command in COMMANDS[language]:
        require(command, packages)
    done = run("make", "-C", str(EXAMPLES), language, "-j2")
    assert done.returncode == 0, (
        f"{done.stdout}\n{done.stderr}\nthe {language} example needs: apt-get install {packages}"
    )
    return PROGRAMS[language]


def test_scores_and_cosines_match_the_python_client(server, program):
    done = run(*program, server.grpc_url, str(IMAGE), *LABELS)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    scores, cosines = rows[: len(LABELS)], rows[len(LABELS) :]
    with Client(server.grpc_url) as client:
        expected = client.classify(str(IMAGE), LABELS)
        similarity = client.similarity([str(IMAGE)], LABELS)[0]
    assert [label for _, label in scores] == [each["label"] for each in expected]
    assert [float(score) for score, _ in scores] == pytest.approx(
        [each["score"] for each in expected], abs=TOLERANCE
    )
    assert [(kind, label) for kind, _, label in cosines] == [("cosine", label) for label in LABELS]
    assert [float(value) for _, value, _ in cosines] == pytest.approx(similarity.tolist(), abs=TOLERANCE)
    assert all(re.fullmatch(r"-?\d\.\d{4}", row[-2]) for row in rows)


def test_response_above_grpcs_default_limit_is_accepted(server, program):
    labels = [f"circle {number}" for number in range(2500)]  # embeddings of 512 floats: 5.1 MB
    done = run(*program, server.grpc_url, str(IMAGE), *labels)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(labels)


def test_damaged_image_fails_with_the_servers_reason(server, program, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image at all")
    done = run(*program, server.grpc_url, str(broken), *LABELS)
    assert done.returncode == 1
    assert "image 0 is not an image in a format accepted here" in done.stderr
    assert done.stdout == ""


def test_overloaded_server_is_asked_again(server, program):
    with count_calls(server, "grpc") as calls:
        calls.reject_next = ATTEMPTS - 1
        done = run(*program, calls.url, str(IMAGE), *LABELS)
    assert done.returncode == 0, done.stderr
    assert calls.models == ["clip_zero_shot"] * ATTEMPTS + ["clip_image_embedding", "clip_text_embedding"]
    assert len(done.stdout.splitlines()) == 2 * len(LABELS)


def test_server_that_stays_overloaded_is_an_error(server, program):
    with count_calls(server, "grpc") as calls:
        calls.reject_next = 100
        done = run(*program, calls.url, str(IMAGE), *LABELS)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the server accepts no more requests" in done.stderr
    assert len(calls.models) == ATTEMPTS


def test_unreachable_server_is_an_error(program):
    done = run(*program, "127.0.0.1:1", str(IMAGE), *LABELS)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["localhost:8001"], ["localhost:8001", str(IMAGE)]])
def test_wrong_usage_exits_with_2(program, arguments):
    done = run(*program, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_missing_image_file_exits_with_2(program):
    done = run(*program, "localhost:8001", "/none/none.jpg", *LABELS)
    assert done.returncode == 2
    assert "cannot read the image" in done.stderr
    assert "/none/none.jpg" in done.stderr


def test_second_build_does_nothing(program):
    language = next(name for name, command in PROGRAMS.items() if command == program)
    done = run("make", "-C", str(EXAMPLES), language, "--question")
    assert done.returncode == 0, done.stdout


def run_block(server, block):
    command = block.replace("localhost:8001", server.grpc_url).replace("localhost:8000", server.http_url)
    done = run("bash", "-euc", command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_has_six_command_blocks():
    assert len(BLOCKS) == 6


def test_readme_command_runs_the_program(server, program):
    language = next(name for name, command in PROGRAMS.items() if command == program)
    block = next(block for block in BLOCKS if f"build/examples/{language}/" in block)
    printed = run_block(server, block)
    assert "\ta red picture\n" in printed
    assert "cosine\t" in printed


def outputs(reply):
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in json.loads(reply)["outputs"]}


def test_readme_curl_command_embeds_a_text(server):
    embeds = outputs(run_block(server, BLOCKS[-2]))["text_embeds"]
    with Client(server.grpc_url) as client:
        np.testing.assert_allclose(embeds[0], client.embed_texts(["a circle"]), atol=TOLERANCE)


def test_readme_curl_command_classifies_an_image(server):
    (ROOT / "build").mkdir(exist_ok=True)
    scores = outputs(run_block(server, BLOCKS[-1]))["scores"]
    labels = ["a circle", "a red picture"]
    with Client(server.grpc_url) as client:
        ranked = client.classify(str(IMAGE), labels, hypothesis_template="{}")
    expected = {each["label"]: each["score"] for each in ranked}
    np.testing.assert_allclose(scores, [[[expected[label] for label in labels]]], atol=TOLERANCE)
