"""Clients of LangChain, LlamaIndex, Haystack and Voyage against the gateway, in their own environment."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.environments import python_of
from tests.helpers.servers import ROOT

IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
TEXTS = ["a red circle", "größer"]


@pytest.mark.slow
def test_clients_embed_texts_and_images(gateway_with_keys, direct):
    calls = Path(__file__).parent / "text_clients_calls.py"
    command = [python_of("text-clients"), calls, gateway_with_keys.url, gateway_with_keys.key, IMAGE, *TEXTS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = direct.embed_texts(TEXTS)
    for name in (
        "langchain documents",
        "langchain documents, asynchronous",
        "langchain query",
        "llama_index documents",
        "llama_index documents, asynchronous",
        "llama_index query",
        "haystack",
        "haystack documents",
        "haystack documents, asynchronous",
        "haystack openai",
        "haystack openai documents",
        "voyage texts",
        "voyage inputs",
    ):
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
    # The client sends the image as lossless WebP of the decoded pixels.
    np.testing.assert_allclose(found["voyage image"], direct.embed_images([str(IMAGE)]), atol=1e-3)
    scaled = expected[:1] / np.abs(expected[0]).max() * 127
    np.testing.assert_allclose(found["voyage int8"], scaled, atol=0.51)
    np.testing.assert_allclose(found["voyage texts int8"], scaled, atol=0.51)
    kind, message = found["voyage error"]
    assert kind == "InvalidRequestError"
    assert "text 0: it has 2 content parts" in message
