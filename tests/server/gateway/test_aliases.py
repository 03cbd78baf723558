"""Other names of the model and of the routes, for clients that have fixed ones."""

import pytest

from tests.helpers.gateway import run_gateway
from tritonclip import InvalidInputError
from tritonclip.gateway import GatewaySettings


@pytest.fixture(scope="module")
def served(direct):
    return direct.models()[0].checkpoint.rpartition("/")[2]


@pytest.fixture(scope="module")
def right(server, served):
    with run_gateway(server.grpc_url, "--model-alias", f"nvidia/nvclip={served}") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def wrong(server):
    options = ("--model-alias", "old=clip-of-last-year", "--model-alias", "new")
    with run_gateway(server.grpc_url, *options) as gateway:
        yield gateway


def test_alias_of_the_served_model_is_a_name_of_it(right):
    assert right.post("/v1/embeddings", input="a", model="nvidia/nvclip").status == 200
    assert right.request("GET", "/v1/models/nvidia/nvclip").status == 200
    assert right.request("GET", "/readyz").status == 200


def test_alias_of_another_model_is_an_error_of_its_requests_and_of_readiness(wrong, served):
    reply = wrong.post("/v1/embeddings", input="a", model="old")
    message = reply.json()["error"]["message"]
    assert reply.status == 404
    assert message.startswith("the model 'old' is an alias of 'clip-of-last-year', but '")
    assert served in message and message.endswith("correct --model-alias, or serve that model")
    for path in ("/readyz", "/health", "/v1/health/ready"):
        ready = wrong.request("GET", path)
        assert (ready.status, ready.json()["reason"]) == (503, message), path
    assert wrong.request("GET", "/healthz").status == 200


def test_error_about_an_unknown_model_lists_only_names_that_work(wrong):
    message = wrong.post("/v1/embeddings", input="a", model="gpt").json()["error"]["message"]
    assert "'new'" in message and "'old'" not in message


@pytest.mark.parametrize("path", ["/health", "/v1/health/ready"])
def test_readiness_has_the_paths_of_other_servers(open_gateway, path):
    reply = open_gateway.request("GET", path)
    assert (reply.status, reply.json()["status"]) == (200, "ready")


def test_liveness_has_the_path_of_nim(open_gateway):
    reply = open_gateway.request("GET", "/v1/health/live")
    assert (reply.status, reply.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (("=model",), "model_aliases: '=model': expected NAME or NAME=MODEL"),
        (("name=",), "model_aliases: 'name=': expected NAME or NAME=MODEL"),
        (("a=x", "a=y"), "model_aliases: 'a' stands for several models; give it once"),
        (("a", "a=y"), "model_aliases: 'a' stands for several models; give it once"),
    ],
)
def test_malformed_alias_is_rejected(aliases, message):
    with pytest.raises(InvalidInputError, match=message):
        GatewaySettings(model_aliases=aliases)
