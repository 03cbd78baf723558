"""The adapter, checked by the SDK's validator and with malformed model outputs."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from synapse_sdk import CanonicalIR, Domain, Payload, TaskType
from synapse_sdk.cli import main as validate
from synapse_sdk.testing import AdapterValidator
from synapse_sdk.testing.fixtures import ALL_FIXTURES, FIXTURE_NAMES

from tests.server.synapse.synapse_messages import LABELS, by_bytes, by_content, message
from tritonclip.synapse import ClipVitBasePatch32Adapter

ADAPTER = ClipVitBasePatch32Adapter()
OUTPUT = [{"score": 0.2, "label": "b"}, {"score": 0.7, "label": "a"}, {"score": 0.1, "label": "c"}]


def test_validate_command_passes_all_fixtures(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    command = ["--adapter", "tritonclip.synapse.ClipVitBasePatch32Adapter", "--all-fixtures"]
    monkeypatch.setattr(sys, "argv", ["synapse-validate", *command])
    with pytest.raises(SystemExit, match="^0$"):
        validate()
    printed = capsys.readouterr().out
    assert f"PASSED -- {len(ALL_FIXTURES)}/{len(ALL_FIXTURES)} fixtures" in printed
    assert "warning" not in printed.lower()


@pytest.mark.parametrize("fixture", ALL_FIXTURES, ids=FIXTURE_NAMES)
def test_fixture_passes_all_rules_without_warnings(fixture: CanonicalIR):
    before = fixture.to_json()
    result = AdapterValidator(ADAPTER, fixtures=[fixture]).run()
    assert (result.errors, result.warnings) == ([], [])
    assert fixture.to_json() == before


def test_validator_detects_missing_provenance():
    class Forgetful(ClipVitBasePatch32Adapter):
        def egress(self, model_output: object, original_ir: CanonicalIR, latency_ms: int) -> CanonicalIR:
            return original_ir.clone()

    result = AdapterValidator(Forgetful()).run()
    assert [one.rule_id for one in result.errors] == ["PROVENANCE_APPENDED"]


@pytest.mark.parametrize("ir", [by_bytes(b"x" * 999), by_content("cat.jpg", candidate_labels=[])])
def test_binary_and_content_messages_pass_all_rules(ir: CanonicalIR):
    result = AdapterValidator(ADAPTER, fixtures=[ir]).run()
    assert (result.errors, result.warnings) == ([], [])


def test_registered_identity_and_custom_model_id():
    assert ADAPTER.MODEL_ID == "openai/clip-vit-base-patch32"
    assert ADAPTER.TASK_TYPES == (TaskType.classify,)
    assert ADAPTER.DOMAINS == (Domain.multimodal, Domain.vision)
    other = ClipVitBasePatch32Adapter("somewhere/else")
    assert other.egress(OUTPUT, by_content("x"), 1).provenance[-1].model_id == "somewhere/else"
    assert AdapterValidator(other, fixtures=ALL_FIXTURES).run().passed


def test_ingress_returns_url_and_labels():
    assert ADAPTER.ingress(by_content("https://example.com/cat.jpg")) == {
        "image": "https://example.com/cat.jpg",
        "candidate_labels": LABELS,
    }


@pytest.mark.parametrize("given", [None, []])
def test_missing_labels_are_replaced_by_default_labels(given: list[str] | None):
    ir = by_content("cat.jpg", candidate_labels=given)
    assert ADAPTER.ingress(ir)["candidate_labels"] == ["object", "animal", "vehicle", "person", "food"]
    assert "default labels" in ADAPTER.egress(OUTPUT, ir, 1).provenance[-1].warnings[0]


def test_single_label_is_a_warning():
    ir = by_content("cat.jpg", candidate_labels=["a, b"])
    assert ADAPTER.ingress(ir)["candidate_labels"] == ["a, b"]
    assert "only one label" in ADAPTER.egress(OUTPUT, ir, 1).provenance[-1].warnings[0]


def test_ingress_copies_the_label_list():
    ir = by_content("cat.jpg")
    ADAPTER.ingress(ir)["candidate_labels"].append("more")
    assert ir.task_header.candidate_labels == LABELS
    ADAPTER.ingress(by_content("cat.jpg", candidate_labels=None))["candidate_labels"].append("more")
    assert "more" not in ADAPTER.ingress(by_content("x", candidate_labels=None))["candidate_labels"]


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG", " image/webp; q=1"])
def test_ingress_decodes_binary_image(kind: str):
    assert ADAPTER.ingress(by_bytes(b"\xff\xd8\0", kind))["image"] == b"\xff\xd8\0"


def test_ingress_decodes_base64_with_line_breaks():
    payload = Payload(modality="binary", binary_b64="AAEC\r\n AwQ=\n", mime_type="image/png")
    assert ADAPTER.ingress(message(payload))["image"] == bytes(range(5))


@pytest.mark.parametrize("broken", ["not base64!", "AAE", "A\u00e9==", "\ud800"])
def test_ingress_of_malformed_base64_is_empty(broken: str):
    ir = by_bytes(b"x")
    ir.payload.binary_b64 = broken
    assert ADAPTER.ingress(ir)["image"] == b""


def test_ingress_of_payload_without_image_is_empty():
    assert ADAPTER.ingress(by_bytes(b"%PDF", "application/pdf"))["image"] == ""
    assert ADAPTER.ingress(message(Payload(modality="structured", data={"a": 1})))["image"] == ""


def test_egress_adds_sorted_labels_and_provenance_only():
    ir = ALL_FIXTURES[FIXTURE_NAMES.index("FULL_COMPLIANCE")].clone()
    ir.provenance.append(ADAPTER.build_provenance(0.5, 3))
    before = ir.model_dump()
    answer = ADAPTER.egress(OUTPUT, ir, latency_ms=12)
    assert ir.model_dump() == before
    assert [(one.label, one.score) for one in answer.payload.labels] == [("a", 0.7), ("b", 0.2), ("c", 0.1)]
    after = answer.model_dump()
    assert {name: value for name, value in after.items() if name not in ("payload", "provenance")} == {
        name: value for name, value in before.items() if name not in ("payload", "provenance")
    }
    assert after["provenance"][:-1] == before["provenance"]
    assert {**after["payload"], "labels": None} == before["payload"]
    entry = answer.provenance[-1]
    assert (entry.confidence, entry.latency_ms, entry.model_id) == (0.7, 12, ADAPTER.MODEL_ID)
    assert CanonicalIR.from_json(answer.to_json()) == answer


def test_equal_scores_keep_their_order():
    output = [{"score": 0.5, "label": name} for name in "cab"]
    assert [one.label for one in ADAPTER.egress(output, by_content("x"), 1).payload.labels] == list("cab")


@pytest.mark.parametrize(
    "output",
    [None, [], {}, {"result": "test", "model_conf": 0.9}, "text", 7, [None, 1, "x", []], [{"score": 0.5}],
     [{"label": "a"}], [{"label": "a", "score": "high"}], [{"label": 7, "score": 0.5}],
     [{"label": "a", "score": math.nan}], [{"label": "a", "score": 10**400}], [[{"label": "a", "score": 1}]]],
)  # fmt: skip
def test_malformed_outputs_give_no_labels(output: object):
    answer = ADAPTER.egress(output, by_content("x"), 1)
    assert answer.payload.labels == []
    assert answer.provenance[-1].confidence == 0
    assert CanonicalIR.from_json(answer.to_json()) == answer
    assert bool(answer.provenance[-1].warnings) == (output != [])


def test_malformed_entry_is_skipped():
    answer = ADAPTER.egress([*OUTPUT, {"label": "d"}, None], by_content("x"), 1)
    assert [one.label for one in answer.payload.labels] == ["a", "b", "c"]
    assert answer.provenance[-1].warnings == ["2 of 5 entries are not predictions"]


def test_scores_are_clamped_with_a_warning_beyond_tolerance():
    output = [{"score": 1.0000001, "label": "a"}, {"score": -1e-9, "label": "b"}]
    answer = ADAPTER.egress(output, by_content("x"), 1)
    assert [one.score for one in answer.payload.labels] == [1.0, 0.0]
    assert answer.provenance[-1].confidence == 1.0
    assert answer.provenance[-1].warnings is None
    far = ADAPTER.egress([{"score": 30, "label": "a"}] * 9, by_content("x"), 1)
    assert far.provenance[-1].warnings == ["a score is outside the range 0 to 1"]


@pytest.mark.parametrize("label", ["a\0b", "a\ud800b"])
def test_unrepresentable_characters_in_labels_are_replaced(label: str):
    answer = ADAPTER.egress([{"score": 1, "label": label}], by_content("x"), 1)
    assert answer.payload.labels[0].label.startswith("a")
    assert CanonicalIR.from_json(answer.to_json()) == answer


def test_large_message_is_not_copied():
    ir = by_bytes(bytes(36_000_000))
    assert len(ADAPTER.ingress(ir)["image"]) == 36_000_000
    many = [{"score": 1 / (n + 1), "label": f"label {n}"} for n in range(10_000)]
    answer = ADAPTER.egress(many, ir, 1)
    assert len(answer.payload.labels) == 10_000
    assert answer.payload.binary_b64 is ir.payload.binary_b64
