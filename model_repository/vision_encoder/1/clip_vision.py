"""CLIP's vision tower with its projection: uint8 pixels to unit-norm image embeddings.

The pixel normalisation, (x / 255 - mean) / std, is folded into the weights and bias of the patch embedding,
so that the device receives bytes. `image_preprocess` decodes and resizes the images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_common.tower import Tower, TowerConfig, load_state, unit_norm

PIXEL_CENTRE = 128
"""Value subtracted from the pixels: bfloat16 is exact for whole numbers from -128 to 127."""


class VisionModel(nn.Module):
    """CLIP's vision tower: uint8 [n, 3, size, size] -> float32 [n, dim], unit L2 norm."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        config = TowerConfig.from_dict(settings)
        width, self.patch = config.hidden_size, settings["patch_size"]
        self.grid = settings["image_size"] // self.patch
        self.patch_embedding = nn.Linear(settings["num_channels"] * self.patch**2, width)
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(self.grid**2, width))
        self.pre_layrnorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.tower = Tower(config)
        self.post_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.visual_projection = nn.Linear(width, settings["projection_dim"], bias=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute uint8 [n, 3, size, size] -> float32 [n, dim], unit L2 norm."""
        n, channels = pixels.shape[:2]
        dtype = self.patch_embedding.weight.dtype
        patches = pixels.view(n, channels, self.grid, self.patch, self.grid, self.patch).permute(
            0, 2, 4, 1, 3, 5
        )
        patches = patches.reshape(n, self.grid**2, -1).to(dtype) - PIXEL_CENTRE
        x = self.patch_embedding(patches).float() + self.position_embedding  # [n, grid ** 2, width]
        x = torch.cat([self.class_embedding.expand(n, -1, -1), x], dim=1)  # [n, 1 + grid ** 2, width]
        x = self.tower(self.pre_layrnorm(x))
        return unit_norm(self.visual_projection(self.post_layernorm(x)))

    def set_precision(self, dtype: torch.dtype) -> None:
        """Cast the tower and the patch embedding; the outer norms and the final projection stay float32."""
        self.tower.set_precision(dtype)
        self.patch_embedding.to(dtype)


def fold_normalisation(weight: torch.Tensor, settings: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert the patch embedding from normalised pixels to bytes minus PIXEL_CENTRE.

    Args:
        weight: float32 [width, 3, patch, patch], the weights of a convolution without bias.
        settings: Holds `image_mean`, `image_std` and `rescale_factor` of the checkpoint's processor.

    Returns:
        float32 weight [width, 3 * patch * patch] and bias [width].
    """
    mean = torch.tensor(settings["image_mean"], dtype=torch.float64).view(1, -1, 1, 1)
    std = torch.tensor(settings["image_std"], dtype=torch.float64).view(1, -1, 1, 1)
    scale, exact = settings["rescale_factor"], weight.double()
    bias = (exact * (PIXEL_CENTRE * scale - mean) / std).sum(dim=(1, 2, 3))
    return (exact * scale / std).flatten(1).float(), bias.float()


def load_vision_model(version_directory: Path) -> VisionModel:
    """Build the tower from `vision.json` and `vision.safetensors`, in float32 on the CPU."""
    settings = json.loads((version_directory / "vision.json").read_text(encoding="utf-8"))
    state = load_state(version_directory / "vision.safetensors", "vision_model.", settings["hidden_act"])
    weight, bias = fold_normalisation(state.pop("embeddings.patch_embedding.weight"), settings)
    positions = state.pop("embeddings.position_embedding.weight")
    state["patch_embedding.weight"], state["patch_embedding.bias"] = weight, bias
    state["class_embedding"] = (state.pop("embeddings.class_embedding") + positions[0]).view(1, 1, -1)
    state["position_embedding"] = positions[1:]
    with torch.device("meta"):
        model = VisionModel(settings)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
