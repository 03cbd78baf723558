"""The complete stage on a real server: ingress, the client's call, egress, and failures."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from typing import Any

import pytest
from synapse_sdk import CanonicalIR, FailurePolicy, PartialCompletionResponse, Payload, TraceContext

from tests.helpers.gate import Gate
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tests.server.synapse.synapse_messages import LABELS, by_bytes, by_content, message
from tritonclip import Client, InvalidInputError, ZeroShotClassifier
from tritonclip.synapse import ClipVitBasePatch32Adapter, StageError, SynapseRunner, request_options

IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
EXAMPLE = str(ROOT / "client" / "examples" / "synapse_stage.py")
CLOSED = "127.0.0.1:1"


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_url) as one:
        yield one


def expected(client: Client, image: object, labels: list[str] = LABELS) -> list[tuple[str, float]]:
    return [(one["label"], one["score"]) for one in client.classify(image, labels)]


def labels_of(answer: object) -> list[tuple[str, float]]:
    assert isinstance(answer, CanonicalIR)
    return [(one.label, one.score) for one in answer.payload.labels]


def test_image_path_is_classified_with_provenance(client: Client):
    answer = SynapseRunner(client).run(by_content(str(IMAGE)))
    assert [name for name, _ in labels_of(answer)] == [name for name, _ in expected(client, IMAGE)]
    assert dict(labels_of(answer)) == pytest.approx(dict(expected(client, IMAGE)), abs=1e-6)
    entry = answer.provenance[-1]
    assert entry.confidence == labels_of(answer)[0][1] > 0.9
    assert entry.latency_ms >= 1
    assert entry.warnings is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_binary_payload_gets_the_scores_of_the_client(client: Client, kind: str):
    content = encode(noise(300, 200), kind)
    answer = SynapseRunner(client, binary_only=True).run(by_bytes(content, f"image/{kind.lower()}"))
    assert dict(labels_of(answer)) == pytest.approx(dict(expected(client, content)), abs=1e-6)


def test_adapter_works_with_zero_shot_classifier(client: Client):
    adapter, ir = ClipVitBasePatch32Adapter(), by_content(str(IMAGE))
    output = ZeroShotClassifier(client)(**adapter.ingress(ir))
    assert labels_of(adapter.egress(output, ir, latency_ms=5))[0][0] == "a red circle"


def test_message_without_labels_gets_default_labels(client: Client):
    answer = SynapseRunner(client).run(by_bytes(IMAGE.read_bytes(), candidate_labels=None))
    assert {name for name, _ in labels_of(answer)} == {"object", "animal", "vehicle", "person", "food"}


def test_answer_can_be_classified_again(client: Client):
    runner = SynapseRunner(client)
    twice = runner.run(runner.run(by_content(str(IMAGE))))
    assert len(twice.provenance) == 2
    assert CanonicalIR.from_json(twice.to_json()) == twice


def test_header_becomes_request_options():
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
    ir = by_content(
        "x", priority=1, latency_budget_ms=1500, trace_context=TraceContext(traceparent=trace + "1")
    )
    assert request_options(ir.task_header) == {
        "priority": 1,
        "timeout_s": 1.5,
        "headers": {"traceparent": trace + "1"},
    }
    ir = by_content("x", priority=3, latency_budget_ms=0, trace_context=TraceContext(traceparent=trace + "0"))
    assert request_options(ir.task_header) == {"priority": 3}


@pytest.mark.parametrize("priority", [1, 2, 3])
def test_every_priority_works_without_a_latency_budget(client: Client, priority: int):
    ir = by_content(str(IMAGE), priority=priority, latency_budget_ms=0)
    assert labels_of(SynapseRunner(client).run(ir))[0][0] == "a red circle"


@pytest.mark.variant("overload")
def test_latency_budget_is_enforced(client: Client, gate: Gate):
    with gate.closed(), pytest.raises(StageError) as caught:
        SynapseRunner(client).run(by_content(str(IMAGE), latency_budget_ms=100))
    assert caught.value.code == "ADAPTER_TIMEOUT"
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize(
    ("ir", "text"),
    [
        (by_content("no/such/file.jpg"), "no such file"),
        (by_bytes(b"no image at all"), "image 0"),
        (by_bytes(b"%PDF", "application/pdf"), "contains no image"),
        (by_content(""), "contains no image"),
        (message(Payload(modality="structured", data={})), "contains no image"),
        (by_content(str(IMAGE), candidate_labels=["a", " "]), "label 1"),
    ],
)
def test_invalid_message_raises_validation_error(client: Client, ir: CanonicalIR, text: str):
    with pytest.raises(StageError, match=text) as caught:
        SynapseRunner(client).run(ir)
    assert caught.value.envelope["error"] == "ADAPTER_VALIDATION_ERROR"
    assert not caught.value.envelope["retryable"]
    assert isinstance(caught.value.__cause__, InvalidInputError)
    json.dumps(caught.value.envelope)


def test_error_text_is_truncated(client: Client):
    ir = by_content("private " * 10_000, failure_policy=FailurePolicy.partial)
    assert len(SynapseRunner(client).run(ir).failed_stages[0].detail) < 600
    with pytest.raises(StageError) as caught:
        SynapseRunner(client).run(by_content("private " * 10_000))
    assert len(str(caught.value)) < 600
    assert caught.value.envelope["message"] == str(caught.value)


def test_binary_only_rejects_paths_and_urls(client: Client):
    for content in (str(IMAGE), "http://127.0.0.1/", "data:image/png;base64,AAAA"):
        with pytest.raises(StageError, match="not accepted here"):
            SynapseRunner(client, binary_only=True).run(by_content(content))


@pytest.mark.parametrize("policy", [FailurePolicy.abort, FailurePolicy.fallback])
def test_unreachable_server_raises_model_unavailable(policy: FailurePolicy):
    with Client(CLOSED, attempts=1) as client, pytest.raises(StageError) as caught:
        SynapseRunner(client).run(by_content(str(IMAGE), failure_policy=policy))
    assert (caught.value.code, caught.value.retryable) == ("MODEL_UNAVAILABLE", True)


def test_partial_policy_returns_results_of_previous_stages():
    ir = by_content(str(IMAGE), failure_policy=FailurePolicy.partial)
    ir.provenance.append(ClipVitBasePatch32Adapter("before").build_provenance(0.5, 3))
    with Client(CLOSED, attempts=1) as client:
        answer = SynapseRunner(client).run(ir)
    assert isinstance(answer, PartialCompletionResponse)
    assert answer.completed_stages == ["before"]
    failed = answer.failed_stages[0]
    assert (failed.model_id, failed.error, failed.stage_index) == (
        "openai/clip-vit-base-patch32",
        "MODEL_UNAVAILABLE",
        1,
    )
    assert answer.payload == ir.payload
    assert answer.provenance == ir.provenance
    assert PartialCompletionResponse.model_validate_json(answer.model_dump_json()) == answer


def test_example_prints_labels_and_provenance(server):
    command = [sys.executable, EXAMPLE, server.grpc_url, "-", "a red circle", "a blue square"]
    done = subprocess.run(command, input=IMAGE.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    first, _, entry = done.stdout.decode().splitlines()
    assert first.endswith("a red circle")
    assert json.loads(entry)["model_id"] == "scripts/demo/checkpoint"


def test_example_reports_an_invalid_image(server, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(sys, "argv", [EXAMPLE, server.grpc_url, "no.jpg", "a"])
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(EXAMPLE, run_name="__main__")
    assert "ADAPTER_VALIDATION_ERROR" in capsys.readouterr().err
