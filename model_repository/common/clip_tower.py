"""The transformer that both CLIP towers share: pre-norm blocks, fused query-key-value, mixed precision.

The matrix products run in the chosen precision; the residual stream, the layer norms and the final
projection stay in float32. Weights come from safetensors files with the tensor names of transformers'
`CLIPModel`.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021),
    section 2.4;
`modeling_clip.py` in huggingface/transformers for names and activations.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from clip_groups import Parameters

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """OpenAI's approximation of GELU: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one tower, under the names of transformers' configuration."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TowerConfig:
        """Takes the tower's sizes out of a version directory's settings."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__})


class Block(nn.Module):
    """One pre-norm transformer block: self-attention, then a two-layer perceptron, each with a residual."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.activation = ACTIVATIONS[config.hidden_act]
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, x: torch.Tensor, causal: bool) -> torch.Tensor:
        """float32 [n, tokens, width] -> float32 [n, tokens, width]."""
        n, tokens, width = x.shape
        dtype = self.qkv_proj.weight.dtype
        qkv = self.qkv_proj(self.layer_norm1(x).to(dtype))  # [n, tokens, 3 * width]
        query, key, value = qkv.view(n, tokens, 3, self.heads, -1).permute(
            2, 0, 3, 1, 4
        )  # each [n, heads, tokens, d]
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        x = x + self.out_proj(mixed.transpose(1, 2).reshape(n, tokens, width)).float()
        return x + self.fc2(self.activation(self.fc1(self.layer_norm2(x).to(dtype)))).float()


class Tower(nn.Module):
    """A stack of blocks."""

    def __init__(self, config: TowerConfig, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, tokens, width] -> float32 [n, tokens, width]."""
        for layer in self.layers:
            x = layer(x, self.causal)
        return x

    def set_precision(self, dtype: torch.dtype) -> None:
        """Casts the matrices of the blocks, and nothing else."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)


def load_state(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Reads a tower's weights as float32, renamed from transformers' layout to this one, q, k and v fused.

    Args:
        path: A safetensors file.
        prefix: "vision_model." or "text_model.", which is dropped from the names.
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
        fused[target] = tensor
    return fused


def unit_norm(x: torch.Tensor) -> torch.Tensor:
    """Scales each row of [n, d] to L2 norm 1."""
    return x / x.norm(dim=-1, keepdim=True)


def set_up_torch(args: dict[str, str], parameters: Parameters) -> tuple[torch.device, torch.dtype]:
    """The device of a model instance and the dtype of its matrix products; sets the threads of a CPU pass.

    Args:
        args: What Triton hands to `initialize`.
        parameters: `precision` and `threads` (0: one for each core that this process may use).
    """
    gpu = args["model_instance_kind"] == "GPU"
    device = torch.device("cuda", int(args["model_instance_device_id"])) if gpu else torch.device("cpu")
    torch.set_num_threads(parameters.integer("threads") or len(os.sched_getaffinity(0)))
    return device, choose_precision(parameters.choice("precision", PRECISIONS), device)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products; `auto` is what the device multiplies fastest within the tolerances.

    float16 on a GPU; bfloat16 on a CPU with AVX512-BF16, AMX or Arm's bf16 instructions; else float32.
    """
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
