"""8-bit linear layers for the vision tower on CPUs, for processors without fast 16-bit instructions.

Weights have one scale per output channel and activations one scale per token. The patch embedding, the norms,
the attention itself, the last block and the projection stay in float32.

A few input channels of a real tower may be a hundred times larger than the others, for all tokens. One scale
per token then rounds the others to zero. With such channels planted in the demo tower, the cosine to float32
falls to 0.15, or to -0.12 with one scale per tensor. So each channel is divided by a power of two, and its
weights are multiplied by it. The layer before absorbs the division: the layer norm, or the value projection.
With this, the cosine stays above 0.999. The inputs of `fc2` have no such layer before them and stay as they
are.

The powers come from the sample images that `prepare` puts into the version directory. The resulting tower is
compared with float32 on the same images.

Source: "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (Xiao et
al., 2023), equation 4 with alpha = 0.5.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clip_common.tower import Block
from clip_vision import VisionModel

SAMPLE_PIXELS = "sample_pixels.npy"
"""File in the version directory: uint8 [n, 3, size, size], written by `prepare` with precision int8."""
MIN_COSINE = 0.995
"""Least cosine between the embeddings in int8 and in float32."""
LAYERS = ("qkv_proj", "out_proj", "fc1", "fc2")
"""Linear layers of a block."""
LARGEST_WEIGHT = 127
LARGEST_ACTIVATION = 63
"""7 bits: before AVX-512 VNNI, processors add pairs of 8-bit products in 16 bits, where 8 bits overflow."""
ENGINE = "fbgemm"
IMAGES_PER_THREAD = 4
"""Images in the largest pass, per thread. Passes of 16 and more were slower on 2 cores."""
LEAST_MAXIMUM = 1e-30
"""Lower bound of a maximum that is divided by."""


class Int8Error(RuntimeError):
    """The tower cannot run in int8 here; the text says why, and what to do."""


class Int8Linear(nn.Module):
    """Linear layer with int8 weights: float32 [..., inputs] -> float32 [..., outputs].

    Sums are exact, in 32 bits. A row does not depend on the other rows of its pass.

    Args:
        linear: The layer in float32, with a bias.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        weight = linear.weight
        scales = weight.abs().amax(dim=1).clamp_min(LEAST_MAXIMUM) / LARGEST_WEIGHT
        whole = (weight / scales[:, None]).round().to(torch.int8)
        self._packed = _pack(whole, scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer; each row of `x` has a scale of its own."""
        rows = x.reshape(-1, x.shape[-1])
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_min_(LEAST_MAXIMUM)
        products = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / largest, 1 / LARGEST_ACTIVATION, LARGEST_ACTIVATION + 1, self._packed
        )
        torch.addcmul(self.bias, products, largest, out=products)
        return products.view(*x.shape[:-1], -1)


def quantize(model: VisionModel, directory: Path) -> None:
    """Convert the linear layers of all blocks but the last to int8, in place, and check the result.

    Args:
        model: The tower in float32 on the CPU.
        directory: The version directory, with `SAMPLE_PIXELS`.

    Raises:
        Int8Error: This CPU has no kernels for int8, or the embeddings of the samples differ too much.
    """
    if ENGINE not in torch.backends.quantized.supported_engines:
        raise Int8Error("precision int8 needs an x86-64 CPU with AVX2; prepare with --precision auto")
    pixels = torch.from_numpy(np.load(directory / SAMPLE_PIXELS))
    blocks = [block for block in model.tower.layers[:-1] if isinstance(block, Block)]
    largest = _largest_inputs(model, blocks, pixels)
    with torch.inference_mode():
        expected = model(pixels)
    for block in blocks:
        _level_channels(block, *(largest[getattr(block, name)] for name in ("qkv_proj", "out_proj", "fc1")))
        for name in LAYERS:
            setattr(block, name, Int8Linear(getattr(block, name)))
    with torch.inference_mode():
        cosine = (model(pixels) * expected).sum(dim=1).min().item()
    if not cosine >= MIN_COSINE:  # also rejects NaN
        raise Int8Error(
            f"the embeddings in int8 differ from float32: the least cosine on {len(pixels)} sample images is "
            f"{cosine:.4f}, the limit {MIN_COSINE}, with {len(LAYERS) * len(blocks)} linear layers in int8; "
            "prepare with --precision float32 or auto"
        )


@torch.inference_mode()
def _largest_inputs(
    model: VisionModel, blocks: list[Block], pixels: torch.Tensor
) -> dict[nn.Module, torch.Tensor]:
    """Return the largest magnitude of each input channel of each linear layer: float32 [inputs] each."""
    largest: dict[nn.Module, torch.Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        largest[layer] = inputs[0].flatten(0, -2).abs().amax(dim=0)

    handles = [getattr(block, name).register_forward_pre_hook(record) for block in blocks for name in LAYERS]
    model(pixels)
    for handle in handles:
        handle.remove()
    return largest


def _level_channels(
    block: Block, qkv_inputs: torch.Tensor, out_inputs: torch.Tensor, fc1_inputs: torch.Tensor
) -> None:
    """Scale the channels between layers, so that activations and weights share the outliers.

    Powers of two change no bit of the significands, so the block in float32 computes the same numbers.
    """
    for norm, linear, inputs in (
        (block.layer_norm1, block.qkv_proj, qkv_inputs),
        (block.layer_norm2, block.fc1, fc1_inputs),
    ):
        factors = _factors(inputs, linear.weight)
        norm.weight.div_(factors)
        norm.bias.div_(factors)
        linear.weight.mul_(factors)
    factors = _factors(out_inputs, block.out_proj.weight)
    value = slice(2 * len(factors), None)  # attention mixes tokens, not channels
    block.qkv_proj.weight[value].div_(factors[:, None])
    block.qkv_proj.bias[value].div_(factors)
    block.out_proj.weight.mul_(factors)


def _factors(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return powers of two near sqrt(largest input / largest weight): float32 [inputs]."""
    ratio = inputs.clamp_min(LEAST_MAXIMUM) / weight.abs().amax(dim=0).clamp_min(LEAST_MAXIMUM)
    return torch.exp2((ratio.log2() / 2).round())


def _pack(whole: torch.Tensor, scales: torch.Tensor) -> Any:
    """Arrange int8 weights [outputs, inputs] for the kernels; `scales` are float32 [outputs]."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch plans to replace tensors of this kind
            weight = torch._make_per_channel_quantized_tensor(
                whole, scales.double(), torch.zeros(len(scales), dtype=torch.long), 0
            )
            return torch.ops.quantized.linear_prepack(weight, None)
    finally:
        torch.backends.quantized.engine = before
