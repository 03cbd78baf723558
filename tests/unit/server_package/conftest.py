"""A small checkpoint and its repository, for tests that prepare repositories."""

import json
import shutil

import pytest

from tests.helpers.servers import DEMO_CHECKPOINT, prepare_repository
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


@pytest.fixture(scope="session")
def prepared_once(small_checkpoint, tmp_path_factory):
    """A repository with version 1 of the small checkpoint. Tests change copies of it only."""
    return prepare_repository(tmp_path_factory.mktemp("repository") / "models", small_checkpoint)


@pytest.fixture
def prepared(prepared_once, tmp_path):
    """A copy of that repository."""
    return shutil.copytree(prepared_once, tmp_path / "models")


@pytest.fixture
def checkpoint_copy(small_checkpoint, tmp_path):
    """A copy of the small checkpoint, which the test changes."""
    return shutil.copytree(small_checkpoint, tmp_path / "checkpoint")
