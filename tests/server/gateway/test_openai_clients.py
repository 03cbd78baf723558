"""Clients of OpenAI's, Jina's, NVIDIA's and infinity's APIs against the gateway, unchanged."""

import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import openai
import pytest
from chromadb.utils.embedding_functions import JinaEmbeddingFunction, OpenAIEmbeddingFunction
from PIL import Image

from tests.helpers.environments import python_of
from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tests.helpers.tiktoken_plugin import ENCODING, write_plugin
from tritonclip_server.benchmarks.gateway_process import running

CALLS = Path(__file__).parent
IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
URI = f"data:image/jpeg;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
TEXTS = ["a red circle", "größer"]


@pytest.fixture(scope="module")
def expected(direct):
    """Embeddings of the texts and the image, in this order."""
    return np.concatenate([direct.embed_texts(TEXTS), direct.embed_images([IMAGE])])


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    return write_plugin(tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module")
def gateway_with_tokens(server, plugin):
    with running(server.grpc_url, "--token-arrays", ENCODING, environ=plugin) as gateway:
        yield gateway


def run(*command, environ=None):
    done = subprocess.run(
        list(map(str, command)), env=environ, capture_output=True, encoding="utf-8", check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def chroma(gateway_with_keys, monkeypatch):
    monkeypatch.setenv("CHROMA_JINA_API_KEY", gateway_with_keys.key)
    function = JinaEmbeddingFunction(model_name="clip")
    function._api_url = f"{gateway_with_keys.url}/v1/embeddings"  # it has no parameter for the address
    yield function
    function._session.close()


def test_chroma_embeds_texts_and_images_as_with_jina(chroma, expected):
    found = chroma([*TEXTS, np.asarray(Image.open(IMAGE).convert("RGB"))])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_chroma_embeds_texts_as_with_openai(gateway_with_keys, expected, monkeypatch):
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", gateway_with_keys.key)
    function = OpenAIEmbeddingFunction(model_name="clip", api_base=f"{gateway_with_keys.url}/v1")
    with function.client:
        np.testing.assert_allclose(function(TEXTS), expected[:2], atol=1e-6)


def test_error_reaches_the_user_of_a_client_of_jina(chroma):
    chroma.model_name = "jina-clip-v2"
    with pytest.raises(RuntimeError, match="the model 'jina-clip-v2' does not exist; use"):
        chroma(TEXTS)


def test_request_of_nv_clips_documentation(gateway_with_keys, expected):
    """Source: https://build.nvidia.com/nvidia/nvclip/deploy."""
    with openai.OpenAI(base_url=f"{gateway_with_keys.url}/v1", api_key=gateway_with_keys.key) as client:
        reply = client.embeddings.create(model="clip", input=[*TEXTS, URI], encoding_format="float")
    np.testing.assert_allclose([one.embedding for one in reply.data], expected, atol=1e-6)


@pytest.mark.slow
def test_javascript_clients(gateway_with_keys, node_modules, expected):
    node = require("node", "nodejs npm")
    url, key = gateway_with_keys.url, gateway_with_keys.key
    found = run(node, CALLS / "openai_calls.mjs", node_modules, url, key, URI)
    assert len(found) == 3
    for name, vectors in found.items():
        np.testing.assert_allclose(vectors, expected[: len(vectors)], atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_clients_of_openai_jina_and_nvidia(gateway_with_tokens, plugin, expected):
    python = python_of("openai-clients")
    found = run(python, CALLS / "openai_calls.py", gateway_with_tokens.url, "any", IMAGE, URI, environ=plugin)
    bits = found.pop("bits of llama-index jina")
    np.testing.assert_array_equal(bits, expected[:2] > 0)
    assert len(found) == 13
    for name, vectors in found.items():
        assert len(vectors) >= 2, name
        np.testing.assert_allclose(vectors, expected[: len(vectors)], atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_client_of_infinity(open_gateway, expected):
    python = python_of("infinity-client")
    found = run(python, CALLS / "infinity_calls.py", open_gateway.url, "any", IMAGE, URI)
    assert (found["health"], found["capabilities"]) == ("ready", ["embed", "image_embed"])
    assert len(found["labels"]) == 5 and found["labels"][0].keys() == {"score", "label"}
    np.testing.assert_allclose(found["texts"], expected[:2], atol=1e-6)
    for name in ("images", "embeddings_image"):
        np.testing.assert_allclose(found[name], expected[2:], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found["vision"][:2], expected[:2], atol=1e-6)
    assert np.dot(found["vision"][2], expected[2]) > 0.99  # the client compresses the image again
