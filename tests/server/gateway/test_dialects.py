"""What all dialects share: names of the model, bodies without a type, and endpoints without a key."""

import json

import pytest

from tests.helpers.gateway import KEY, KEY_LINE, run_gateway
from tritonclip import InvalidInputError
from tritonclip.gateway import GatewaySettings, create_app


@pytest.fixture(scope="module")
def partly_open(server):
    options = ("--open-endpoints", "sambastudio", "--model-alias", "text-embedding-3-small")
    with run_gateway(server.grpc_url, *options, environ={"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}) as gateway:
        yield gateway


def test_open_dialect_needs_no_key_and_others_do(partly_open):
    body = {"inputs": ["a red circle"]}
    assert partly_open.request("POST", "/api/predict/nlp/p/e", json=body).status == 200
    assert partly_open.request("POST", "/v1/embeddings", json={"input": "a red circle"}).status == 401


def test_unknown_open_dialect_is_refused():
    with pytest.raises(InvalidInputError, match="open_endpoints: 'nothing' is unknown; give one of native"):
        create_app(GatewaySettings(open_endpoints=("nothing",)), "localhost:1")


def test_alias_is_a_name_of_the_model(partly_open):
    headers = {"key": KEY}
    body = {"input": "a red circle", "model": "text-embedding-3-small"}
    assert partly_open.request("POST", "/v1/embeddings", json=body, headers=headers).status == 200
    reply = partly_open.request("POST", "/v1/embeddings", json={**body, "model": "other"}, headers=headers)
    assert reply.status == 404
    assert "or 'clip' or 'text-embedding-3-small'" in reply.json()["error"]["message"]


def test_json_without_a_content_type_is_read(open_gateway):
    body = json.dumps({"input": "a red circle"}).encode()
    reply = open_gateway.request("POST", "/v1/embeddings", body=body, headers={})
    assert reply.status == 200
