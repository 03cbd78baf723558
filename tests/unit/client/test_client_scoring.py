"""Flows with client-side scoring, whose steps the test answers itself; no server is needed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tritonclip import InvalidInputError, ModelNotReadyError, ServerUnavailableError, TruncatedTextWarning
from tritonclip._calls import wire
from tritonclip._calls.client_scoring import ClientScoringFlows, LabelStore, decode_vision
from tritonclip._calls.codec import Call, Ranking
from tritonclip._calls.request import start_request
from tritonclip._calls.steps import Flow, Work
from tritonclip._calls.token_counts import TokenCounts
from tritonclip._settings import Settings

SETTINGS = Settings.from_env("localhost", preprocess="client", environ={})
PROCESSOR = {"resize": 8, "resample": 3, "crop": [8, 8], "convert_rgb": True}
IMAGE = np.zeros((8, 8, 3), np.uint8)
EMBEDS = {"a": [1.0, 0.0], "b": [0.6, 0.8]}
LOGIT_SCALE = 10.0


def ranking(*labels: str) -> Ranking:
    return Ranking.check(list(labels), hypothesis_template="{}", top_k=None, threshold=None)


class Server:
    """A server in the test's process that answers the steps of a flow and records the texts it receives."""

    def __init__(self) -> None:
        self.version = "1"
        self.tokens = 5
        self.token_limit = 77
        self.texts: list[str] = []

    def run(self, flow: Flow[Any]) -> Any:
        result: Any = None
        try:
            while True:
                result = self._answer(flow.send(result))
        except StopIteration as end:
            return end.value

    def _answer(self, step: Any) -> Any:
        if isinstance(step, Work):
            return step.run(start_request(SETTINGS))
        if isinstance(step, wire.Question):
            assert step == (wire.Topic.MODEL_PARAMETERS, wire.PIXEL_EMBEDDING)
            scale = str(LOGIT_SCALE)
            return {"processor": json.dumps(PROCESSOR), "logit_scale": scale, "version": self.version}
        assert isinstance(step, Call)
        if step.model is wire.PIXEL_EMBEDDING:
            count = step.inputs["pixel_values"].shape[1]
            embeds = np.array([[EMBEDS["a"]] * count], np.float32)
            return wire.Answer({"image_embeds": embeds}, self.version)
        texts = [text.decode() for text in step.inputs["text"][0]]
        self.texts += texts
        embeds = np.array([[EMBEDS[text[0]] for text in texts]], np.float32)
        outputs = {
            "text_embeds": embeds,
            "token_counts": np.full((1, len(texts)), self.tokens, np.int32),
            "token_limit": np.array([[self.token_limit]], np.int32),
        }
        return wire.Answer(outputs, self.version)


def test_scores_are_computed_from_embeddings_and_known_labels_are_not_sent_again() -> None:
    flows, server = ClientScoringFlows(SETTINGS), Server()
    wanted = np.exp(LOGIT_SCALE) / (np.exp(LOGIT_SCALE) + np.exp(0.6 * LOGIT_SCALE))
    for _ in range(2):
        best, other = server.run(flows.classify(IMAGE, ranking("b", "a")))
        assert (best["label"], other["label"]) == ("a", "b")
        assert best["score"] == pytest.approx(wanted, rel=1e-5)
    assert server.texts == ["b", "a"]


def test_labels_are_embedded_again_if_the_models_change() -> None:
    flows, server = ClientScoringFlows(SETTINGS), Server()
    server.run(flows.classify(IMAGE, ranking("a", "b")))
    server.version = "2"
    server.run(flows.classify(IMAGE, ranking("a", "b")))
    assert server.texts == ["a", "b", "a", "b"]


def test_models_that_change_during_a_call_raise_unavailable() -> None:
    flows, server = ClientScoringFlows(SETTINGS), Server()
    flow = flows.embed_images(IMAGE)
    vision = server._answer(next(flow))
    call = flow.send(server._answer(flow.send(vision)))
    server.version = "2"
    question = flow.send(server._answer(call))
    assert isinstance(question, wire.Question)
    changed = vision | {"version": "2", "processor": json.dumps(PROCESSOR | {"resize": 9})}
    with pytest.raises(ServerUnavailableError, match="models were changed"):
        flow.send(changed)


def test_truncated_label_emits_a_warning_with_each_call() -> None:
    flows, server = ClientScoringFlows(SETTINGS), Server()
    server.tokens = 99
    for _ in range(2):
        with pytest.warns(TruncatedTextWarning, match="label 0 has 99 tokens and was cut at 77"):
            server.run(flows.classify(IMAGE, ranking("a")))


def test_label_within_the_limit_of_the_served_model_emits_no_warning() -> None:
    flows, server = ClientScoringFlows(SETTINGS), Server()
    server.tokens = server.token_limit = 99
    for _ in range(2):
        server.run(flows.classify(IMAGE, ranking("a", "b")))  # a warning is an error here


def test_rejected_label_is_named_by_the_callers_index() -> None:
    flows, server = ClientScoringFlows(SETTINGS), Server()
    server.run(flows.classify(IMAGE, ranking("a")))
    flow = flows.classify(IMAGE, ranking("a", "b too long"))
    next(flow)  # only the unknown label is sent, as number 0 of the request
    with pytest.raises(InvalidInputError, match="^label 1 is too long"):
        flow.throw(InvalidInputError("label 0 is too long"))


def test_store_drops_the_least_recently_used_prompts() -> None:
    store = LabelStore(max_prompts=2)
    embeds = [np.full(2, value, np.float32) for value in range(3)]
    assert store.join(["x", "y"], ["x", "y"], embeds[:2], TokenCounts([3, 4], 77), "1") is not None
    assert store.join(["x"], [], [], TokenCounts([], 0), None) is not None
    found = store.join(["z"], ["z"], embeds[2:], TokenCounts([5], 77), "1")
    assert found is not None and found[1:] == (TokenCounts([5], 77), "1")
    assert store.missing(["x", "y", "z"]) == ["y"]
    assert store.join(["x", "y"], [], [], TokenCounts([], 0), None) is None


@pytest.mark.parametrize("name", ["processor", "logit_scale"])
def test_missing_parameter_raises_model_not_ready(name: str) -> None:
    parameters = {"processor": json.dumps(PROCESSOR), "logit_scale": "100"}
    del parameters[name]
    with pytest.raises(ModelNotReadyError, match=f"no parameter '{name}'"):
        decode_vision(parameters)
