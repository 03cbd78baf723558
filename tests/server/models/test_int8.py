"""The vision tower in int8: its answers next to those of transformers, and a tower that is rejected."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.helpers.calls import metric
from tests.helpers.parity import LEAST_COSINE, SCORE_TOLERANCE, assert_embeddings_equal, assert_scores_equal
from tests.helpers.pictures import telling_images
from tests.helpers.reference import reference_answers
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip import Client
from tritonclip_server.serving.launcher import LaunchError


@pytest.mark.variant("int8")
@pytest.mark.filterwarnings("ignore::tritonclip.TruncatedTextWarning")
def test_answers_in_int8_are_close_to_the_models(server, record_property):
    assert metric(server, "tritonclip_model_info", model="vision_encoder", precision="int8") == 1
    assert metric(server, "tritonclip_model_info", model="text_encoder", precision="float32") == 1
    images, reference = telling_images(), reference_answers(DEMO_CHECKPOINT)
    with Client(server.grpc_url, timeout_s=120) as client:
        assert_scores_equal(client, images, reference, SCORE_TOLERANCE["int8"], record_property)
        assert_embeddings_equal(client, images, reference, LEAST_COSINE["int8"], record_property)


def test_tower_that_int8_spoils_does_not_load_and_says_why(servers, prepare, tmp_path):
    """A large constant rounds the other inputs of a layer to zero; its weights are 0, so float32 works."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DEMO_CHECKPOINT, checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    mlp = "vision_model.encoder.layers.0.mlp."
    tensors[mlp + "fc1.bias"][0] = 60000  # float16 holds no more
    tensors[mlp + "fc2.weight"][:, 0] = 0
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(
        prepare(checkpoint, "--precision", "int8") / "vision_encoder", tmp_path / "alone" / "vision_encoder"
    )
    server = servers.new(tmp_path / "alone", "a tower that int8 spoils")
    with pytest.raises(LaunchError, match=r"(?s)int8 differ from float32.*prepare with --precision float32"):
        server.start()
