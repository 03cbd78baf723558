"""The served system against transformers: images in every form, two checkpoints, two precisions."""

import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, pipeline
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.helpers.pictures import varied_images
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

LABELS = [
    "temple",
    "flower",
    "red circle",
    "blue square",
    "cat",
    "noise",
    "the digit seven",
    "ein Haus",
    "🙂",
]
TEXTS = [*LABELS, "two small yellow stars on a white background", "x" * 300]
SCORE_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.01}
RANDOM_BFLOAT16_TOLERANCE = 0.015
"""Of ViT-B/32 with random weights and a logit scale of 100. On a CPU with AMX transformers itself, in
bfloat16, is off from float32 by 0.0077, and by 0.0103 with the labels in float32."""
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.9999}


class Reference(NamedTuple):
    scores: np.ndarray
    image_embeds: np.ndarray
    text_embeds: np.ndarray


def unit(values):
    return (values / values.norm(dim=-1, keepdim=True)).numpy()


@torch.inference_mode()
def compute_reference(directory):
    model = CLIPModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    processor = CLIPImageProcessorPil.from_pretrained(directory)
    classify = pipeline(
        "zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=processor
    )
    scores, pixels = [], []
    for encoded in varied_images().values():
        image = load_image(Image.open(io.BytesIO(encoded)))
        by_label = {found["label"]: found["score"] for found in classify(image, candidate_labels=LABELS)}
        scores.append([by_label[label] for label in LABELS])
        pixels.append(processor(images=[image], return_tensors="pt")["pixel_values"])
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    return Reference(
        np.array(scores),
        unit(model.get_image_features(pixel_values=torch.cat(pixels)).pooler_output),
        unit(model.get_text_features(**tokens).pooler_output),
    )


@pytest.fixture(scope="module")
def references(random_checkpoint):
    """What transformers says in float32, by checkpoint, computed when first asked for."""
    directories = {"demo": DEMO_CHECKPOINT, "random": random_checkpoint}
    known = {}

    def get(name):
        if name not in known:
            known[name] = compute_reference(directories[name])
        return known[name]

    return get


@pytest.fixture(
    scope="module",
    params=[("demo", "float32"), ("demo", "bfloat16"), ("random", "float32"), ("random", "bfloat16")],
    ids="-".join,
)
def served(request, prepare, random_checkpoint, references):
    """A server of one checkpoint in one precision, and the reference for it."""
    name, precision = request.param
    tolerance = SCORE_TOLERANCE[precision]
    if request.param == ("demo", "float32"):
        yield request.getfixturevalue("server"), references(name), precision, tolerance
        return
    if request.param == ("random", "bfloat16"):
        tolerance = RANDOM_BFLOAT16_TOLERANCE
    source = random_checkpoint if name == "random" else "scripts/demo/checkpoint"
    repository = prepare(source, "--precision", precision)
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        yield server, references(name), precision, tolerance


@pytest.fixture(params=["grpc", "http"])
def case(request, served):
    server, reference, precision, _ = served
    url = server.grpc_url if request.param == "grpc" else server.http_url
    with Client(url, protocol=request.param, timeout_s=120) as client:
        yield client, reference, precision


def test_at_least_forty_images_are_compared():
    assert len(varied_images()) >= 40


def test_scores_equal_those_of_the_pipeline(case, served, record_property):
    client, reference, _ = case
    answers = client.classify(list(varied_images().values()), LABELS)
    scores = np.array(
        [[{each["label"]: each["score"] for each in one}[label] for label in LABELS] for one in answers]
    )
    worst = np.abs(scores - reference.scores).max()
    record_property("largest score error", float(worst))
    assert worst < served[3]


@pytest.mark.filterwarnings("ignore::tritonclip.TruncatedTextWarning")
def test_embeddings_equal_those_of_the_model(case, record_property):
    client, reference, precision = case
    images = client.embed_images(list(varied_images().values()))
    texts = client.embed_texts(TEXTS)
    for kind, ours, theirs in (
        ("image", images, reference.image_embeds),
        ("text", texts, reference.text_embeds),
    ):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=-1), 1, atol=1e-5)
        cosine = (ours * theirs).sum(axis=-1).min()
        record_property(f"least {kind} cosine", float(cosine))
        assert cosine >= LEAST_COSINE[precision]


@pytest.mark.filterwarnings("ignore::tritonclip.TruncatedTextWarning")
def test_both_protocols_give_the_same_answer(served):
    server = served[0]
    images = list(varied_images().values())[:8]
    with Client(server.grpc_url) as grpc, Client(server.http_url, protocol="http") as http:
        assert grpc.classify(images, LABELS) == http.classify(images, LABELS)
        np.testing.assert_array_equal(grpc.embed_images(images), http.embed_images(images))
        np.testing.assert_array_equal(grpc.embed_texts(TEXTS), http.embed_texts(TEXTS))
