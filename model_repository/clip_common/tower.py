"""The transformer of both CLIP towers: pre-norm blocks, fused query-key-value projection, mixed precision.

The matrix products run in the chosen precision. The final projection stays in float32, as do the residual
stream and the layer norms. With float16 these two are in float16 as well: its 11 significant bits are
enough, and a GPU then moves half the bytes. The last block computes only the token that is read, which saves
a twelfth of the work of ViT-B. Weights come from safetensors files with the tensor names of transformers'
`CLIPModel`.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021),
    section 2.4;
`modeling_clip.py` in huggingface/transformers for names and activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from clip_common.cpu import available_cores, cpu_has_bfloat16
from clip_common.parameters import Parameters

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions of both towers, besides "auto"."""
QUICK_GELU_SLOPE = 1.702
"""Slope in OpenAI's approximation of GELU, x * sigmoid(1.702 x), which equals silu(1.702 x) / 1.702."""


def silu_(x: torch.Tensor) -> torch.Tensor:
    """Compute SiLU, x * sigmoid(x), in place: a single pass over the widest tensor of a block."""
    return functional.silu(x, inplace=True)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": silu_,  # `fold_quick_gelu` puts the slope into the weights
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": silu_,
}


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one tower, named as in transformers' configuration."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TowerConfig:
        """Select the tower's sizes from `vision.json` or `text.json` of a version directory."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__})


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, then a two-layer perceptron, each with a residual."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.dtype = torch.float32  # inputs of the linear layers
        self.heads = config.num_attention_heads
        self.activation = ACTIVATIONS[config.hidden_act]
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, x: torch.Tensor, causal: bool) -> torch.Tensor:
        """Compute [n, tokens, width] -> [n, tokens, width] in place."""
        n, tokens, width = x.shape
        qkv = self.qkv_proj(self._normed(x))  # [n, tokens, 3 * width]
        query, key, value = qkv.view(n, tokens, 3, self.heads, -1).permute(
            2, 0, 3, 1, 4
        )  # each [n, heads, tokens, d]
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self._finish(x, mixed.transpose(1, 2).reshape(n, tokens, width))

    def pooled(self, x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        """Compute one token per row of what `forward` returns: [n, tokens, width] -> [n, width].

        Args:
            x: The input of `forward`.
            positions: int64 [n], the token of each row, with causal attention. None selects the first token,
                with full attention.
        """
        n, tokens, width = x.shape
        normed, mask = self._normed(x), None
        if positions is not None:
            mask = (torch.arange(tokens, device=x.device) <= positions[:, None])[:, None, None]
        weight, bias = self.qkv_proj.weight, self.qkv_proj.bias
        query = functional.linear(take(normed, positions), weight[:width], bias[:width])
        key_value = functional.linear(normed, weight[width:], bias[width:])
        key, value = key_value.view(n, tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query.view(n, self.heads, 1, -1), key, value, attn_mask=mask
        )
        return self._finish(take(x, positions), mixed.reshape(n, width))

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer_norm1(x).to(self.dtype)

    def _finish(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        x += self.out_proj(mixed)
        x += self.fc2(self.activation(self.fc1(self.layer_norm2(x).to(self.dtype))))
        return x


class Tower(nn.Module):
    """A stack of blocks that returns one token per row."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Compute float32 [n, tokens, width] -> float32 [n, width]; `x` is overwritten.

        Args:
            x: Embedded tokens.
            positions: int64 [n], the token to return, with causal attention. None returns the first token,
                with full attention.
        """
        x = x.to(next(self.parameters()).dtype)
        for layer in self.layers[:-1]:
            x = layer(x, causal=positions is not None)
        last: Any = self.layers[-1]
        return last.pooled(x, positions).float()

    def set_precision(self, dtype: torch.dtype) -> None:
        """Cast the matrices of the blocks; float16 also casts the norms and the residual stream."""
        if dtype == torch.float16:
            self.to(dtype)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
            elif isinstance(module, Block):
                module.dtype = dtype


def take(x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    """Select one token per row, [n, tokens, width] -> [n, width], the first if `positions` is None."""
    if positions is None:
        return x[:, 0].contiguous()
    return x[torch.arange(len(x), device=x.device), positions]


def load_state(path: Path, prefix: str, activation: str) -> dict[str, torch.Tensor]:
    """Load a tower's weights as float32, renamed from transformers' layout, with q, k and v fused.

    Args:
        path: A safetensors file.
        prefix: "vision_model." or "text_model.", which is removed from the names.
        activation: A key of `ACTIVATIONS`.
    """
    state = {name.removeprefix(prefix): tensor.float() for name, tensor in load_file(path).items()}
    fused: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        target = name.replace("encoder.layers.", "tower.layers.")
        target = target.replace(".self_attn.", ".").replace(".mlp.", ".")
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            target, tensor = target.replace(".q_proj.", ".qkv_proj."), torch.cat(parts)
        fused[target] = fold_quick_gelu(target, tensor) if activation == "quick_gelu" else tensor
    return fused


def fold_quick_gelu(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Fold the slope of `quick_gelu` into the layers before and after it, so that SiLU can replace it."""
    if ".fc1." in name:
        return tensor * QUICK_GELU_SLOPE
    return tensor / QUICK_GELU_SLOPE if name.endswith(".fc2.weight") else tensor


def pass_slices(count: int, largest: int) -> Iterator[slice]:
    """Split `count` items into as few passes of at most `largest` items as possible, of nearly equal size.

    Example: 37 items in passes of at most 16 are split into 12, 12 and 13.
    """
    passes = -(-count // largest)
    for number in range(passes):
        yield slice(count * number // passes, count * (number + 1) // passes)


def unit_norm(x: torch.Tensor) -> torch.Tensor:
    """Scale each row of [n, d] to L2 norm 1."""
    return x / x.norm(dim=-1, keepdim=True)


def set_up_torch(
    args: dict[str, str], parameters: Parameters, *, exact_on_cpu: bool, int8: bool = False
) -> tuple[torch.device, torch.dtype]:
    """Set torch's number of threads; return the instance's device and the dtype of its matrix products.

    Args:
        args: The arguments of `initialize`.
        parameters: Holds `precision` and `threads`; 0 threads means one for each available core.
        exact_on_cpu: See `choose_precision`.
        int8: Accept the precision int8, whose dtype is `torch.int8`. "auto" never selects it.

    Raises:
        ValueError: A parameter has no such value, or int8 is wanted on a GPU.
    """
    gpu = args["model_instance_kind"] == "GPU"
    device = torch.device("cuda", int(args["model_instance_device_id"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
        # cuDNN's attention plans each new shape for 0.4 s, and fails if the loader finds another cuDNN.
        torch.backends.cuda.enable_cudnn_sdp(False)
    torch.set_num_threads(parameters.integer("threads") or available_cores())
    wanted = parameters.choice("precision", ["auto", *PRECISIONS, *(["int8"] if int8 else [])])
    return device, choose_precision(wanted, device, exact_on_cpu)


def choose_precision(wanted: str, device: torch.device, exact_on_cpu: bool) -> torch.dtype:
    """Return the dtype of the matrix products; "auto" is the fastest that keeps within the tolerances.

    That is float16 on a GPU, bfloat16 on a CPU with AVX512-BF16, AMX or Arm's bf16 instructions, and
    otherwise float32.

    Args:
        wanted: A key of PRECISIONS, "auto" or "int8".
        device: The device that runs the tower.
        exact_on_cpu: Let "auto" select float32 on every CPU.

    Raises:
        ValueError: int8 is wanted on a GPU.
    """
    if wanted == "int8":
        if device.type == "cuda":
            raise ValueError("precision int8 runs on CPUs only; prepare with --precision float16 or auto")
        return torch.int8
    if wanted != "auto":
        return PRECISIONS[wanted]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() and not exact_on_cpu else torch.float32
