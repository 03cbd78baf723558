"""Every client, synchronous and asynchronous, over gRPC and HTTP, on the real server."""

import asyncio
import base64
import hashlib
import inspect
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.calls import settled_statistics
from tests.helpers.clients import BOTH_KINDS, BOTH_PROTOCOLS, ONE_CLIENT
from tests.helpers.pictures import encode, noise, telling_images
from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tests.helpers.waiting import wait_until
from tritonclip import (
    DEFAULT_LABELS,
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidInputError,
    ServerUnavailableError,
    TruncatedTextWarning,
)
from tritonclip_server.repository.writer import ENSEMBLES

SAMPLE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
LABELS = ["a red circle", "a blue square", "the digit 7"]
CALLS = ["classify", "embed_images", "embed_texts", "similarity", "health", "models", "statistics", "close"]
BULK = ["classify_many", "embed_images_many", "embed_texts_many"]


@pytest.mark.parametrize("name", CALLS + BULK)
def test_client_and_async_client_have_the_same_signatures(name):
    ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
    if name in BULK:  # their types differ by AsyncIterable and AsyncIterator
        ours, theirs = (
            [(one.name, one.kind, one.default) for one in signature.parameters.values()]
            for signature in (ours, theirs)
        )
    assert ours == theirs
    assert inspect.getdoc(getattr(Client, name)) == inspect.getdoc(getattr(AsyncClient, name))
    assert inspect.iscoroutinefunction(getattr(AsyncClient, name)) == (name in CALLS)


def test_client_and_async_client_have_the_same_public_names():
    public = [{name for name in dir(kind) if not name.startswith("_")} for kind in (Client, AsyncClient)]
    assert public[0] == public[1]


def test_all_clients_give_the_same_answers(client, server):
    with Client(server.grpc_url) as reference:
        assert client.classify(SAMPLE, LABELS) == reference.classify(SAMPLE, LABELS)
        np.testing.assert_array_equal(client.embed_texts(LABELS), reference.embed_texts(LABELS))


@ONE_CLIENT
def test_every_form_of_an_image_is_accepted(client):
    image = Image.open(SAMPLE)
    forms = [SAMPLE, str(SAMPLE), SAMPLE.read_bytes(), image, np.asarray(image)]
    for form in forms:
        best = client.classify(form, LABELS)[0]
        assert best["label"] == "a red circle"
    assert [one[0]["label"] for one in client.classify(forms, LABELS)] == ["a red circle"] * len(forms)


@BOTH_KINDS
def test_predictions_have_the_form_of_the_pipeline(client):
    ranked = client.classify(SAMPLE, LABELS)
    assert [list(found) for found in ranked] == [["score", "label"]] * 3
    assert sum(found["score"] for found in ranked) == pytest.approx(1, abs=1e-6)
    assert client.classify(SAMPLE, LABELS, top_k=1) == ranked[:1]
    assert client.classify(SAMPLE, LABELS, threshold=0.5) == ranked[:1]
    assert {found["label"] for found in client.classify(SAMPLE)} == set(DEFAULT_LABELS)


@BOTH_KINDS
def test_similarity_equals_the_cosine_of_the_embeddings(client):
    images = [SAMPLE, telling_images()["photo.jpg"]]
    cosines = client.similarity(images, LABELS)
    np.testing.assert_allclose(cosines, client.embed_images(images) @ client.embed_texts(LABELS).T, atol=1e-6)
    assert cosines.shape == (2, 3)
    assert client.embed_images(SAMPLE).shape == client.embed_texts("a cat").shape == (512,)


def test_health_of_a_ready_server_is_ok(client):
    assert client.health().ok


def test_truncated_labels_and_texts_are_reported(client):
    long = "word " * 200
    with pytest.warns(TruncatedTextWarning, match="label 1 has .* tokens and was cut at 77: 'word word"):
        client.classify(SAMPLE, ["a red circle", long])
    with pytest.warns(TruncatedTextWarning, match="text 0 has"):
        client.embed_texts([long, "short"])


def test_models_report_their_weights(client):
    models = {model.name: model for model in client.models()}
    assert set(models) == set(ENSEMBLES)
    weights = (DEMO_CHECKPOINT / "model.safetensors").read_bytes()
    for model in models.values():
        assert model.sha256 == hashlib.sha256(weights).hexdigest()
        assert model.checkpoint == "scripts/demo/checkpoint"
        assert not model.random_weights
        assert 1 < model.logit_scale <= 100


def test_server_error_names_index_model_and_endpoint(client, url, protocol):
    broken = encode(noise(300, 300), "JPEG")[:3000]
    with pytest.raises(InvalidInputError, match="image 1 cannot be decoded") as caught:
        client.classify([SAMPLE, broken], LABELS)
    assert caught.value.model == "clip_zero_shot"
    assert caught.value.endpoint == f"{protocol}://{url}"


@pytest.mark.variant("overload")
def test_client_works_after_a_missed_deadline(client, gate):
    # On a slow machine the server may reject the request just before the client does.
    message = r"no answer within 0.5 s|deadline (passed|cannot be met): "
    with gate.closed(), pytest.raises((DeadlineExceededError, ServerUnavailableError), match=message):
        client.embed_images(SAMPLE, timeout_s=0.5)
    assert client.classify(SAMPLE, LABELS)[0]["label"] == "a red circle"


def test_closed_port_raises_server_unavailable(make):
    client = make("127.0.0.1:9", timeout_s=5)
    with pytest.raises(ServerUnavailableError, match="127.0.0.1:9"):
        client.classify(SAMPLE, LABELS)


def test_call_after_close_raises_runtime_error(client):
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match=r"used after close\(\); make a new"):
        client.classify(SAMPLE, LABELS)


@pytest.mark.variant("overload")
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_many_tasks_share_one_async_client_and_one_is_cancelled(url, protocol, gate):
    images = 4 * list(telling_images().values())

    async def embed_all():
        async with AsyncClient(url, protocol=protocol, timeout_s=60) as client:
            together = await asyncio.gather(*(client.embed_images(image) for image in images))
            with gate.closed():
                task = asyncio.create_task(client.embed_images(images))
                await asyncio.to_thread(gate.wait_until_it_holds)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            return together, await client.embed_images(images)

    together, joined = asyncio.run(embed_all())
    np.testing.assert_allclose(np.stack(together), joined, atol=1e-5)


@ONE_CLIENT
def test_image_opened_from_memory_keeps_its_exif_orientation(client):
    turned = telling_images()["exif_6.jpg"]
    opened = Image.open(io.BytesIO(turned))
    np.testing.assert_allclose(client.embed_images(opened), client.embed_images(turned), atol=1e-5)


@ONE_CLIENT
def test_relative_path_is_accepted(client, monkeypatch):
    monkeypatch.chdir(SAMPLE.parent)
    assert client.classify(Path("red_circle.jpg"), LABELS)[0]["label"] == "a red circle"


@ONE_CLIENT
def test_file_objects_and_data_urls_are_accepted(client):
    with SAMPLE.open("rb") as file:
        from_file = client.embed_images(file)
    data_url = "data:image/jpeg;base64," + base64.b64encode(SAMPLE.read_bytes()).decode()
    np.testing.assert_array_equal(from_file, client.embed_images(SAMPLE))
    np.testing.assert_array_equal(client.embed_images([data_url])[0], from_file)


@BOTH_PROTOCOLS
def test_statistics_count_requests_rows_and_failures(client):
    before = settled_statistics(client)
    client.embed_images([SAMPLE, SAMPLE])
    with pytest.raises(InvalidInputError):
        client.embed_images(b"no image")
    assert set(before) == set(ENSEMBLES) | {
        "admission", "image_preprocess", "vision_encoder", "text_encoder", "similarity",
    }  # fmt: skip

    def changes():
        after = {one.name: one for one in client.statistics()}
        counted = [("clip_image_embedding", "requests"), ("vision_encoder", "rows")]
        counted.append(("vision_encoder", "executions"))
        changed = [getattr(after[name], what) - getattr(before[name], what) for name, what in counted]
        return changed, after["clip_image_embedding"].failures > before["clip_image_embedding"].failures

    wait_until(lambda: changes() == ([1, 1, 1], True), lambda: f"{changes()}")
    encoder = {one.name: one for one in client.statistics()}["vision_encoder"]
    assert encoder.mean_batch >= 1
    assert 0 < encoder.compute_ms <= encoder.mean_ms
