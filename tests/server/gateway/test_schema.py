"""The OpenAPI document: stored unchanged, with working examples, and observed by the gateway."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.write_openapi import TARGET, document

from tests.helpers.gateway import KEY, KEY_LINE
from tritonclip_server.benchmarks.gateway_process import running

HERE = Path(__file__).parent


def test_document_equals_the_stored_one():
    """After an intended change of the API, run scripts/write_openapi.py."""
    assert document() == TARGET.read_text(encoding="utf-8")


def test_document_is_served(open_gateway):
    assert open_gateway.request("GET", "/openapi.json").json() == json.loads(document())


def operations():
    for path, methods in json.loads(document())["paths"].items():
        for method, operation in methods.items():
            yield pytest.param(operation, id=f"{method} {path}")


@pytest.mark.parametrize("operation", list(operations()))
def test_every_operation_is_documented(operation):
    assert operation["summary"] and operation["description"] and operation["tags"]
    if "requestBody" in operation:
        assert {"400", "401", "408", "413", "415", "429", "503", "504"} <= operation["responses"].keys()
        assert operation["security"]


def fields(schema, where=""):
    for name, entry in schema.get("properties", {}).items():
        yield f"{where}.{name}", entry


def test_every_request_field_has_a_description_and_an_example():
    schemas = json.loads(document())["components"]["schemas"]
    for name in ("ClassifyRequest", "SimilarityRequest", "EmbeddingsRequest", "NlpRequest"):
        for where, entry in fields(schemas[name], name):
            assert entry.get("description"), where
            assert entry.get("examples"), where


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/classify", "ClassifyRequest"),
        ("/v1/similarity", "SimilarityRequest"),
        ("/v1/embeddings", "EmbeddingsRequest"),
        ("/api/predict/nlp/p/e", "NlpRequest"),
    ],
)
def test_examples_succeed(open_gateway, path, name):
    schema = json.loads(document())["components"]["schemas"][name]
    example = {key: entry["examples"][0] for key, entry in schema["properties"].items()}
    reply = open_gateway.request("POST", path, json=example)
    assert reply.status == 200, reply.data


def run_schemathesis(gateway, examples):
    command = [
        Path(sys.executable).parent / "schemathesis",
        "--config-file",
        HERE / "schemathesis.toml",
        "run",
    ]
    options = ["--header", f"Authorization: Bearer {gateway.key}", "--max-examples", examples, "--no-color"]
    report = subprocess.run(
        [*map(str, [*command, f"{gateway.url}/openapi.json", *options, "--generation-deterministic"])],
        capture_output=True, text=True, check=False, cwd=HERE,
    )  # fmt: skip
    assert report.returncode == 0, report.stdout[-6000:] + report.stderr[-2000:]
    return report.stdout


def test_schemathesis_finds_no_violation(gateway_with_keys):
    assert "Tested: 13" in run_schemathesis(gateway_with_keys, 15)


@pytest.mark.slow
def test_schemathesis_finds_no_violation_in_many_examples(server):
    with running(server.grpc_url, environ={"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}, key=KEY) as gateway:
        run_schemathesis(gateway, 400)
        assert not [line for line in gateway.lines if '"ERROR"' in line]
