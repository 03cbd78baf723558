"""Model configurations: no setting that stalls the batcher or corrupts memory."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tritonclip._calls import wire
from tritonclip_server.paths import MODEL_REPOSITORY
from tritonclip_server.repository.configs import ENSEMBLES, MODELS, PYTHON_MODELS


def config_of(model):
    return text_format.Parse(
        (MODEL_REPOSITORY / model / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig()
    )


@pytest.mark.parametrize("model", MODELS)
def test_every_model_batches_rows(model):
    config = config_of(model)
    assert config.name == model
    assert config.max_batch_size == 64


@pytest.mark.parametrize("model", PYTHON_MODELS)
def test_python_models_batch_ragged_rows_without_further_settings(model):
    config = config_of(model)
    assert config.backend == "python"
    assert all(each.allow_ragged_batch for each in config.input)
    # Any queue policy, priority or preferred size stalls or caps the batcher.
    assert config.HasField("dynamic_batching") is (model != "admission")
    assert config.dynamic_batching.ByteSize() == 0


def test_every_input_of_an_ensemble_passes_admission_first():
    """A malformed BYTES tensor would fail the whole dynamic batch that contains it."""
    for model in ENSEMBLES:
        config = config_of(model)
        first = config.ensemble_scheduling.step[0]
        assert first.model_name == "admission"
        assert set(first.input_map.values()) == {each.name for each in config.input}


@pytest.mark.parametrize("model", ENSEMBLES)
def test_ensembles_are_strict_sequences(model):
    """Each step waits for the previous one; before Triton 26.05, parallel steps corrupt memory."""
    config = config_of(model)
    steps = config.ensemble_scheduling.step
    for before, step in zip(steps, steps[1:], strict=False):
        assert set(before.output_map.values()) & set(step.input_map.values()), (
            before.model_name,
            step.model_name,
        )


def test_public_models_are_the_ensembles():
    assert {model.name for model in wire.PUBLIC_MODELS} == set(ENSEMBLES)
