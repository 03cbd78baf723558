"""The vision tower in int8: its layers, outliers of activations, and the check against float32."""

import copy

import numpy as np
import pytest
import torch

import clip_int8
from clip_common.parameters import Parameters
from clip_common.tower import choose_precision, set_up_torch
from clip_int8 import Int8Error, Int8Linear, quantize
from clip_vision import load_vision_model
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip_server.repository.checkpoint import read_checkpoint
from tritonclip_server.repository.checkpoint_files import locate
from tritonclip_server.repository.writer import PART_WRITERS, SAMPLE_PIXELS, _save_sample_pixels

pytestmark = pytest.mark.skipif(
    clip_int8.ENGINE not in torch.backends.quantized.supported_engines, reason="this CPU has no int8 kernels"
)
OUTLIERS = [3, 17, 40, 41]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The vision part of a version of the demo checkpoint, with sample images."""
    directory = tmp_path_factory.mktemp("vision")
    checkpoint = read_checkpoint(locate(str(DEMO_CHECKPOINT)))
    PART_WRITERS["vision_encoder"](checkpoint, directory)
    _save_sample_pixels(checkpoint.vision["image_size"], directory / SAMPLE_PIXELS)
    return directory


@pytest.fixture
def model(directory):
    return load_vision_model(directory)


@pytest.fixture(scope="module")
def pixels(directory):
    """Images that the tower is not calibrated on: the samples upside down, and noise."""
    samples = np.load(directory / SAMPLE_PIXELS)
    noise = np.random.default_rng(2).integers(0, 256, (2, *samples.shape[1:]), dtype=np.uint8)
    return torch.from_numpy(np.concatenate([samples[:, :, ::-1], noise]))


@torch.inference_mode()
def least_cosine(one, other, pixels):
    return (one(pixels) * other(pixels)).sum(dim=1).min().item()


def with_outliers(model):
    """Return the same function, with channels of each block a hundred times as large."""
    model = copy.deepcopy(model)
    for block in model.tower.layers:
        for norm, linear in ((block.layer_norm1, block.qkv_proj), (block.layer_norm2, block.fc1)):
            norm.weight[OUTLIERS] *= 100
            norm.bias[OUTLIERS] *= 100
            linear.weight[:, OUTLIERS] /= 100
        values = [2 * block.out_proj.in_features + channel for channel in OUTLIERS]
        block.qkv_proj.weight[values] *= 100
        block.qkv_proj.bias[values] *= 100
        block.out_proj.weight[:, OUTLIERS] /= 100
    return model


def test_layer_has_exact_sums_and_one_scale_per_row():
    """Products of the largest weights and activations overflow kernels that add them in 16 bits."""
    linear = torch.nn.Linear(512, 32).requires_grad_(False)
    linear.weight.fill_(1)
    rows = torch.ones(3, 2, 512) * torch.tensor([1e-3, 1, 1e3]).view(3, 1, 1)
    found = Int8Linear(linear)(rows)
    torch.testing.assert_close(found, linear(rows), rtol=1e-5, atol=1e-5)


def test_layer_of_zeros_returns_its_bias_and_nan_stays_in_its_row():
    linear = torch.nn.Linear(64, 8).requires_grad_(False)
    rows = torch.zeros(2, 64)
    rows[1, 5] = float("nan")
    found = Int8Linear(linear)(rows)
    torch.testing.assert_close(found[0], linear.bias)
    assert found[1].isnan().all()


def test_int8_is_close_to_float32_and_the_last_block_stays_float32(model, directory, pixels):
    exact = copy.deepcopy(model)
    quantize(model, directory)
    assert least_cosine(model, exact, pixels) > 0.999
    *blocks, last = model.tower.layers
    assert all(isinstance(getattr(block, name), Int8Linear) for block in blocks for name in clip_int8.LAYERS)
    assert isinstance(last.fc1, torch.nn.Linear)


def test_embedding_does_not_depend_on_its_pass(model, directory, pixels):
    quantize(model, directory)
    with torch.inference_mode():
        together = model(pixels)
        alone = torch.cat([model(image[None]) for image in pixels])
    assert (together * alone).sum(dim=1).min() > 0.9999


def test_outlier_channels_keep_the_accuracy(model, directory, pixels):
    changed = with_outliers(model)
    assert least_cosine(changed, model, pixels) > 0.999999
    quantize(changed, directory)
    assert least_cosine(changed, model, pixels) > 0.999


def test_outlier_channels_spoil_a_tower_whose_channels_are_not_levelled(model, directory, monkeypatch):
    monkeypatch.setattr(clip_int8, "_level_channels", lambda *_: None)
    with pytest.raises(Int8Error, match=r"least cosine on 9 sample images is -?0\.\d+, the limit 0\.995"):
        quantize(with_outliers(model), directory)


def test_tower_that_int8_spoils_is_rejected_with_figure_layers_and_fix(model, directory):
    model.tower.layers[0].fc1.bias[0] = 1e6  # a constant that rounds all other inputs of fc2 to zero
    model.tower.layers[0].fc2.weight[:, 0] = 0
    layers = 4 * (len(model.tower.layers) - 1)
    with pytest.raises(Int8Error, match=rf"differ from float32.* with {layers} linear layers in int8; "):
        quantize(model, directory)


def test_cpu_without_kernels_is_rejected(model, directory, monkeypatch):
    monkeypatch.setattr(clip_int8, "ENGINE", "unknown")
    with pytest.raises(Int8Error, match="needs an x86-64 CPU with AVX2; prepare with --precision auto"):
        quantize(model, directory)


def test_int8_is_rejected_on_a_gpu_and_for_texts():
    with pytest.raises(ValueError, match="int8 runs on CPUs only; prepare with --precision float16 or auto"):
        choose_precision("int8", torch.device("cuda", 0), exact_on_cpu=False)
    texts = {"precision": "int8", "threads": "1"}
    parameters = Parameters({"parameters": {name: {"string_value": text} for name, text in texts.items()}})
    instance = {"model_instance_kind": "CPU", "model_instance_device_id": "0"}
    assert set_up_torch(instance, parameters, exact_on_cpu=False, int8=True)[1] is torch.int8
    with pytest.raises(ValueError, match="must be one of auto, float32, bfloat16, float16, not 'int8'"):
        set_up_torch(instance, parameters, exact_on_cpu=True)
