"""The gateway observes its OpenAPI document, also in requests that schemathesis generates."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.gateway import KEY, KEY_LINE, run_gateway

HERE = Path(__file__).parent


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
    paths = gateway_with_keys.request("GET", "/openapi.json").json()["paths"]
    operations = sum(map(len, paths.values()))
    assert f"Tested: {operations}" in run_schemathesis(gateway_with_keys, 6)


@pytest.mark.slow
def test_schemathesis_finds_no_violation_in_many_examples(server):
    with run_gateway(server.grpc_url, environ={"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}, key=KEY) as gateway:
        run_schemathesis(gateway, 120)
        assert not [line for line in gateway.lines if '"ERROR"' in line]
