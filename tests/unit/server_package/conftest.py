"""A small checkpoint for tests that prepare repositories."""

import json

import pytest

from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip_server.repository.random_checkpoint import ARCHITECTURES, write_random_checkpoint

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def small_architecture():
    """A CLIP with one narrow layer per tower and the vocabulary of the demo checkpoint."""
    config = json.loads((DEMO_CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    text = TOWER | {"vocab_size": config["text_config"]["vocab_size"]}
    return {"projection_dim": 16, "vision_config": TOWER, "text_config": text}


@pytest.fixture(scope="session")
def small_checkpoint(small_architecture, tmp_path_factory):
    """A checkpoint with random weights that is prepared quickly. Tests change copies of it only."""
    directory = tmp_path_factory.mktemp("small") / "checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", small_architecture)
        write_random_checkpoint("small", directory)
    return directory
