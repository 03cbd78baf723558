"""Texts as arrays of tokens, which the gateway decodes with an encoding of tiktoken."""

import numpy as np
import openai
import pytest

from tests.helpers.tiktoken_plugin import ENCODING, write_plugin
from tritonclip_server.benchmarks.gateway_process import running

TEXTS = ["a red circle", "größer"]
TOKENS = [list(text.encode()) for text in TEXTS]


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    environ = write_plugin(tmp_path_factory.mktemp("plugin"))
    with running(server.grpc_url, "--token-arrays", ENCODING, environ=environ) as gateway:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
            yield client


@pytest.mark.parametrize(
    ("given", "texts"), [(TOKENS, TEXTS), (TOKENS[0], TEXTS[:1]), ([TEXTS[0], TOKENS[1]], TEXTS)]
)
def test_token_arrays_are_embedded_as_their_texts(client, direct, given, texts):
    reply = client.embeddings.create(model="clip", input=given)
    found = [one.embedding for one in reply.data]
    np.testing.assert_allclose(found, direct.embed_texts(texts), atol=1e-6)


@pytest.mark.parametrize("token", [256, -1, 2**40])
def test_unknown_token_is_rejected(client, token):
    with pytest.raises(openai.BadRequestError, match="a token is not in the vocabulary") as caught:
        client.embeddings.create(model="clip", input=[TOKENS[0], [token]])
    assert caught.value.param == "input[1]"
