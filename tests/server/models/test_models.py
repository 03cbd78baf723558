"""Published facts of the models, health, and restricted endpoints."""

import hashlib

import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import metric, parameters
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip import Client
from tritonclip_server.repository.writer import ENSEMBLES, MODELS


@pytest.mark.parametrize("model", ENSEMBLES)
def test_public_model_names_its_checkpoint(server, model):
    facts = parameters(server, model)
    assert facts["checkpoint"] == "scripts/demo/checkpoint"
    assert facts["revision"] == "local"
    assert facts["random_weights"] == "false"
    weights = (DEMO_CHECKPOINT / "model.safetensors").read_bytes()
    assert facts["sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("model", ["vision_encoder", "text_encoder"])
def test_precision_in_use_is_published(server, model):
    sha256 = parameters(server, "clip_zero_shot")["sha256"]
    assert metric(server, "tritonclip_model_info", model=model, precision="float32", sha256=sha256) == 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_health_covers_every_public_model(server, protocol):
    url = server.grpc_url if protocol == "grpc" else server.http_url
    with Client(url, protocol=protocol) as client:
        health = client.health()
    assert health.ok
    assert set(health.models) == set(ENSEMBLES)


def test_admin_endpoints_require_the_key(server):
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_model_repository_index()
        assert client.get_model_repository_index(headers={"admin-key": server.admin_key})
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for closed in (
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                closed()
        key = {"triton-grpc-protocol-admin-key": server.admin_key}
        assert len(client.get_model_repository_index(headers=key).models) == len(MODELS)
