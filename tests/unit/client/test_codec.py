from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tritonclip import (
    DEFAULT_HYPOTHESIS_TEMPLATE,
    DEFAULT_LABELS,
    InferenceError,
    InvalidInputError,
    ModelNotReadyError,
    Predictions,
    TruncatedTextWarning,
)
from tritonclip._calls import codec, wire
from tritonclip._calls.checks import check_texts
from tritonclip._calls.steps import infer, infer_versioned
from tritonclip._calls.timings import Timer, collect_timings
from tritonclip._calls.token_counts import report_counts
from tritonclip._calls.wire import Tensors


def classify(images: list[bytes], labels: Any = ("a", "b"), **options: Any) -> codec.Call[Any]:
    plain = {"hypothesis_template": DEFAULT_HYPOTHESIS_TEMPLATE, "top_k": None, "threshold": None}
    return codec.classify_call(images, codec.Ranking.check(labels, **(plain | options)))


def scores(*rows: list[float]) -> Tensors:
    return {
        "scores": np.array([rows], dtype=np.float32),
        "token_counts": np.full((1, len(rows[0])), 9, dtype=np.int32),
        "token_limit": np.array([[77]], dtype=np.int32),
    }


def test_classify_request_is_one_group() -> None:
    call = classify([b"\xff\0\0", b"", b"three"], ["Katze", "犬"])
    image, labels = call.inputs["image"], call.inputs["labels"]
    assert call.model.name == "clip_zero_shot"
    assert [output.name for output in call.outputs] == ["scores", "token_counts", "token_limit"]
    assert (image.shape, labels.shape) == ((1, 3), (1, 2))
    assert image.dtype == labels.dtype == object
    assert image[0].tolist() == [b"\xff\0\0", b"", b"three"]
    assert labels[0].tolist() == [b"This is a photo of Katze.", "This is a photo of 犬.".encode()]


def test_truncated_label_emits_a_warning() -> None:
    outputs = scores([0.25, 0.75]) | {"token_counts": np.array([[77, 78]], dtype=np.int32)}
    with pytest.warns(TruncatedTextWarning, match="label 1 has 78 tokens and was cut at 77: 'b'") as caught:
        classify([b"x"], ["a", "b"]).decode(outputs)
    assert len(caught) == 1


@pytest.mark.parametrize(("limit", "warns"), [(32, True), (77, True), (78, False), (248, False)])
@pytest.mark.parametrize("kind", ["label", "text"])
def test_text_is_truncated_at_the_limit_of_the_served_model(kind: str, limit: int, warns: bool) -> None:
    counts = np.array([[3, 78]], dtype=np.int32)
    answer = {"token_counts": counts, "token_limit": np.array([[limit]], dtype=np.int32)}

    def decode() -> None:
        if kind == "label":
            classify([b"x"], ["a", "b"]).decode(scores([0.25, 0.75]) | answer)
        else:
            embeds = np.ones((1, 2, 4), np.float32)
            _, found = codec.embed_texts_call(["a", "b"]).decode({"text_embeds": embeds} | answer)
            report_counts(found, ["a", "b"], kind="text")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode()
    texts = [str(one.message) for one in caught]
    assert texts == ([f"{kind} 1 has 78 tokens and was cut at {limit}: 'b'"] if warns else [])


@pytest.mark.parametrize("tokens", [77, 78])
def test_limit_of_an_older_server_is_that_of_its_checkpoints(tokens: int) -> None:
    call = classify([b"x"], ["a", "b"])
    outputs = scores([0.25, 0.75]) | {"token_counts": np.array([[3, tokens]], dtype=np.int32)}
    del outputs["token_limit"]
    unknown = "unexpected inference output 'token_limit' for model 'clip_zero_shot'"
    flow = infer(call)
    next(flow)
    again = flow.throw(ModelNotReadyError(unknown))
    assert isinstance(again, codec.Call)
    assert [output.name for output in again.outputs] == ["scores", "token_counts"]
    with warnings.catch_warnings(record=True) as caught, pytest.raises(StopIteration):
        warnings.simplefilter("always")
        flow.send(wire.Answer(outputs, "1"))
    assert len(caught) == (tokens > 77)


def test_older_server_gives_an_answer_without_timings() -> None:
    call = classify([b"x"], ["a", "b"]).with_timings()
    unknown = "unexpected inference output '{}' for model 'clip_zero_shot'"
    flow = infer(call)
    next(flow)
    again = flow.throw(ModelNotReadyError(unknown.format("token_limit")))
    assert isinstance(again, codec.Call)
    assert [output.name for output in again.outputs] == ["scores", "token_counts", "timings_us"]
    again = flow.throw(ModelNotReadyError(unknown.format("timings_us")))
    assert isinstance(again, codec.Call)
    assert [output.name for output in again.outputs] == ["scores", "token_counts"]
    timer = Timer()
    timer.add(wire.Answer(scores([0.25, 0.75]), "1"), call.model)
    predictions = Predictions()
    with collect_timings() as found:
        timer.finish(predictions)
    assert predictions.timings is None
    assert found == []


@pytest.mark.parametrize("text", ["model is not ready", "unexpected inference output 'scores' for model 'm'"])
def test_other_errors_of_a_missing_model_are_raised_at_once(text: str) -> None:
    for flow in (infer(classify([b"x"])), infer_versioned(codec.embed_texts_call(["a"]))):
        next(flow)
        with pytest.raises(ModelNotReadyError, match=text):
            flow.throw(ModelNotReadyError(text))


def test_answer_without_valid_token_counts_is_rejected() -> None:
    outputs = scores([0.25, 0.75])
    call = classify([b"x"], ["a", "b"])
    with pytest.raises(InferenceError, match="has no 'token_counts'"):
        call.decode({"scores": outputs["scores"]})
    with pytest.raises(InferenceError, match="token_counts: expected int32"):
        call.decode(outputs | {"token_counts": np.zeros((1, 3), np.int32)})
    with pytest.raises(InferenceError, match="token_limit: expected int32"):
        call.decode(outputs | {"token_limit": np.zeros((1, 2), np.int32)})


def test_embedding_calls_hold_one_group() -> None:
    images = codec.embed_images_call([b"one", b"two\0"])
    texts = codec.embed_texts_call(["{} stays", "as it is"])
    pixels = codec.embed_pixels_call(np.zeros((2, 3, 4, 5), np.uint8))
    assert images.inputs["image"].tolist() == [[b"one", b"two\0"]]
    assert texts.inputs["text"].tolist() == [[b"{} stays", b"as it is"]]
    assert pixels.inputs["pixel_values"].shape == (1, 2, 3, 4, 5)
    models = (wire.IMAGE_EMBEDDING, wire.TEXT_EMBEDDING, wire.PIXEL_EMBEDDING)
    assert (images.model, texts.model, pixels.model) == models
    assert check_texts("one, not two") == (["one, not two"], True)
    assert check_texts(["one"]) == (["one"], False)


@pytest.mark.parametrize(
    "call",
    [
        classify([b"x"]),
        codec.embed_images_call([b"x"]),
        codec.embed_pixels_call(np.zeros((1, 3, 2, 2), np.uint8)),
        codec.embed_texts_call(["x"]),
    ],
)
def test_call_holds_exactly_the_models_inputs(call: codec.Call[Any]) -> None:
    assert list(call.inputs) == [tensor.name for tensor in call.model.inputs]
    assert set(call.outputs) <= set(call.model.outputs)


def test_same_size_images_stay_separate_elements() -> None:
    assert codec.bytes_tensor([b"ab", b"cd"]).shape == (1, 2)


def test_request_over_two_gib_is_rejected() -> None:
    big = bytes(2**28)  # one object, counted nine times
    with pytest.raises(InvalidInputError, match="9 inputs have 2415919140 bytes"):
        codec.embed_images_call([big] * 9)


def test_predictions_have_the_format_of_the_pipeline() -> None:
    call = classify([b"x", b"y"], ["a", "b", "c"])
    result = call.decode(scores([0.25, 0.5, 0.125], [1.0, 0.0, 0.0]))
    assert result == [
        [{"score": 0.5, "label": "b"}, {"score": 0.25, "label": "a"}, {"score": 0.125, "label": "c"}],
        [{"score": 1.0, "label": "a"}, {"score": 0.0, "label": "b"}, {"score": 0.0, "label": "c"}],
    ]
    assert [list(item) for item in result[0]] == [["score", "label"]] * 3
    assert type(result[0][0]["score"]) is float


def test_tied_scores_keep_the_order_of_the_pipeline() -> None:
    rng = np.random.default_rng(3)
    names = [f"label {i}" for i in range(200)]
    row = rng.integers(0, 9, 200).astype(np.float32) / 16
    result = classify([b"x"], names).decode(scores(row.tolist()))
    # As transformers' ZeroShotImageClassificationPipeline.postprocess sorts.
    wanted = sorted(zip(row.tolist(), names, strict=True), key=lambda pair: -pair[0])
    assert [(item["score"], item["label"]) for item in result[0]] == wanted


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 1}, ["b"]),
        ({"top_k": 2}, ["b", "a"]),
        ({"top_k": 9}, ["b", "a", "c"]),
        ({"threshold": 0.25}, ["b", "a"]),
        ({"threshold": 0.9}, []),
        ({"threshold": 0.1, "top_k": 1}, ["b"]),
        ({}, ["b", "a", "c"]),
    ],
)
def test_top_k_and_threshold_limit_the_predictions(options: dict[str, Any], kept: list[str]) -> None:
    result = classify([b"x"], ["a", "b", "c"], **options).decode(scores([0.25, 0.5, 0.125]))
    assert [item["label"] for item in result[0]] == kept


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_k", v) for v in (0, -1, 1.0, True, "1")]
    + [("threshold", v) for v in (-0.1, 1.1, float("nan"), True, "0")],
)
def test_invalid_top_k_or_threshold_is_rejected(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=field):
        classify([b"x"], **{field: value})


def test_embeddings_are_a_writable_copy() -> None:
    received = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    received.setflags(write=False)
    result = codec.embed_images_call([b"x", b"y"]).decode({"image_embeds": received})
    assert (result.shape, result.dtype) == ((2, 3), np.float32)
    result[0, 0] = 9
    assert received[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("outputs", "part"),
    [
        ({}, "has no 'scores'"),
        (scores([0.5, 0.5], [0.5, 0.5]), r"expected float32 \[1, 1, 2\], got float32 \[1, 2, 2\]"),
        (scores([0.2, 0.3, 0.5]), r"got float32 \[1, 1, 3\]"),
        ({"scores": np.zeros((1, 2), np.float32)}, r"got float32 \[1, 2\]"),
        ({"scores": np.zeros((1, 1, 2))}, "got float64"),
        (scores([0.5, float("nan")]), "NaN"),
    ],
)
def test_malformed_scores_are_rejected(outputs: Tensors, part: str) -> None:
    with pytest.raises(InferenceError, match=part) as caught:
        classify([b"x"]).decode(outputs)
    assert caught.value.model == "clip_zero_shot"


def test_malformed_embeddings_are_rejected() -> None:
    call = codec.embed_texts_call(["a", "b"])
    with pytest.raises(InferenceError, match=r"text_embeds: expected float32 \[1, 2, \?\]"):
        call.decode({"text_embeds": np.zeros((1, 3, 4), np.float32)})


def test_scores_are_the_softmax_of_the_scaled_cosines() -> None:
    images, texts = np.eye(2, dtype=np.float32), np.array([[1, 0], [0.6, 0.8]], np.float32)
    logits = 100 * np.array([[1, 0.6], [0, 0.8]])
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(codec.scores(images, texts, 100.0), wanted, rtol=1e-4)
    assert codec.scores(images, texts, 100.0).dtype == np.float32


def test_similarity_is_the_cosine() -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.normal(size=(n, 8)).astype(np.float32) for n in (3, 4))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    result = codec.similarity(a, b)
    assert (result.shape, result.dtype) == ((3, 4), np.float32)
    np.testing.assert_allclose(result[1, 2], np.dot(a[1], b[2]), rtol=1e-5)


def test_labels_default_and_comma_separated_string() -> None:
    texts = [f"This is a photo of {label}.".encode() for label in DEFAULT_LABELS]
    assert classify([b"x"], None).inputs["labels"].tolist() == [texts]
    call = classify([b"x"], " a cat, a dog ,,", hypothesis_template="{}")
    assert call.inputs["labels"].tolist() == [[b"a cat", b"a dog"]]


def test_predictions_return_labels_unchanged() -> None:
    result = classify([b"x"], [" a ", "a"]).decode(scores([0.75, 0.25]))
    assert [item["label"] for item in result[0]] == [" a ", "a"]


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ([], "labels: the list is empty"),
        ("", "labels: the list is empty"),
        (" , ", "labels: the list is empty"),
        (["a", ""], "label 1: it is blank"),
        (["a", "b", " \t"], "label 2: it is blank"),
        (["a", b"b"], "label 1: expected a string, got bytes"),
        (["a", None], "label 1: expected a string, got NoneType"),
        (["a", "b\ud800"], "label 1: character 1 is a lone surrogate"),
        ({"a", "b"}, "labels: expected a list of strings, got set"),
        (7, "got int"),
    ],
)
def test_invalid_labels_are_rejected(labels: Any, part: str) -> None:
    with pytest.raises(InvalidInputError, match=part):
        classify([b"x"], labels)


@pytest.mark.parametrize(
    ("texts", "part"), [([], "texts: "), (["a", " "], "text 1: "), ("\udfff", "text 0: ")]
)
def test_invalid_texts_are_rejected(texts: Any, part: str) -> None:
    with pytest.raises(InvalidInputError, match=part):
        check_texts(texts)


@pytest.mark.parametrize(
    ("template", "text"), [("{}", b"x"), ("{{{}}}", b"{x}"), ("{{}} {}", b"{} x"), ("a {}{{", b"a x{")]
)
def test_template_is_filled_with_the_label(template: str, text: bytes) -> None:
    assert classify([b"x"], ["x"], hypothesis_template=template).inputs["labels"].tolist() == [[text]]


@pytest.mark.parametrize(
    "template",
    ["", "photo", "{} {}", "{0}", "{label}", "{!r}", "{:>9}", "{", "}", "{}{", "{{}}", "{}\ud800", None, 3],
)
def test_invalid_template_is_rejected(template: Any) -> None:
    with pytest.raises(InvalidInputError, match="hypothesis_template"):
        classify([b"x"], ["x"], hypothesis_template=template)


def test_braces_in_labels_are_literal() -> None:
    assert classify([b"x"], ["{0} {"], hypothesis_template="{}").inputs["labels"].tolist() == [[b"{0} {"]]
