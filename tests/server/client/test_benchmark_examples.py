"""The adapters for clip_benchmark and MTEB in client/examples, called as these packages call a model."""

import importlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from tests.helpers.servers import ROOT
from tritonclip import Client

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "client" / "examples"
PATHS = [ROOT / "scripts" / "demo" / "images" / name for name in ("red_circle.jpg", "blue_square.webp")]
LABELS = ["a red circle", "a blue square", "a green heart"]


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


class Transformed(Dataset):
    """A data set of torchvision's kind: (transform(PIL image), class)."""

    def __init__(self, transform):
        self._transform = transform

    def __len__(self):
        return len(PATHS)

    def __getitem__(self, index):
        with Image.open(PATHS[index]) as image:
            return self._transform(image), index


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_url) as client:
        yield client


def test_clip_benchmark_classifies_as_the_client(server, client):
    model, transform, tokenizer = importlib.import_module("clip_benchmark_model").load_tritonclip(
        model_name=f"http://{server.http_url}", pretrained="", cache_dir=None, device="cpu"
    )
    model.eval()
    with torch.no_grad():
        prompts = [tokenizer([f"This is a photo of {label}."]).to("cpu") for label in LABELS]
        classifier = torch.stack(
            [normalize(model.encode_text(one), dim=-1).mean(dim=0) for one in prompts], dim=1
        )
        (images, classes), *_ = DataLoader(Transformed(transform), batch_size=2)
        scores = (100.0 * normalize(model.encode_image(images.to("cpu")), dim=-1) @ classifier).softmax(dim=1)
    assert scores.argmax(dim=1).tolist() == classes.tolist()
    for row, ranked in zip(
        scores.tolist(), client.classify([str(path) for path in PATHS], LABELS), strict=True
    ):
        expected = {one["label"]: one["score"] for one in ranked}
        assert row == pytest.approx(
            [expected[label] for label in LABELS], abs=0.02
        )  # logit_scale is near 100


def test_transform_of_clip_benchmark_pickles_for_worker_processes(server, client):
    _, transform, _ = importlib.import_module("clip_benchmark_model").load_tritonclip(
        f"http://{server.http_url}"
    )
    with Image.open(PATHS[0]) as image:
        embeds = pickle.loads(pickle.dumps(transform))(image)
    np.testing.assert_allclose(embeds, client.embed_images(str(PATHS[0])), atol=1e-4)


def test_clip_benchmark_gets_the_model_type_before_its_command_runs(monkeypatch):
    models = types.SimpleNamespace(TYPE2FUNC={}, MODEL_TYPES=[])
    command = types.SimpleNamespace(main=lambda: list(models.MODEL_TYPES))
    package = types.ModuleType("clip_benchmark")
    package.models, package.cli = models, command
    monkeypatch.setitem(sys.modules, "clip_benchmark", package)
    example = importlib.import_module("clip_benchmark_model")
    assert example.main() == ["tritonclip"]
    assert models.TYPE2FUNC == {"tritonclip": example.load_tritonclip}


def test_mteb_encodes_the_columns_of_its_batches(server, client):
    model = importlib.import_module("mteb_model").ServedClip(server.grpc_url, revision=None, device="cpu")
    task = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 2}
    images = [Image.open(path).convert("RGB") for path in PATHS]
    encoded = model.encode(DataLoader([{"image": one} for one in images], 1, collate_fn=columns), **task)
    texts = model.encode(DataLoader([{"text": one} for one in LABELS], 2, collate_fn=columns), **task)
    both = model.encode([{"image": images, "text": LABELS[:2]}], **task)
    np.testing.assert_allclose(encoded, client.embed_images(images), atol=1e-5)
    np.testing.assert_allclose(texts, client.embed_texts(LABELS), atol=1e-5)
    np.testing.assert_allclose(both, encoded + texts[:2], atol=1e-5)
    cosines = model.similarity(encoded, texts)
    np.testing.assert_allclose(cosines, client.similarity(images, LABELS), atol=1e-5)
    assert model.similarity_pairwise(both, encoded + texts[:2]).tolist() == pytest.approx([1, 1], abs=1e-5)


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}
