"""The demo's CLIP before training: its size, and initial weights that let it learn within minutes.

A vision transformer with random patch filters sees little but the mean colour of a patch for its first
thousand steps. The filters are therefore initialised with the whitened principal components of drawn patches,
and the positions with sines and cosines. The architecture is that of CLIP.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tritonclip_server.demo.drawing import SIDE
from tritonclip_server.demo.tokenizer import MAX_TOKENS

PATCH = 32
VISION_WIDTH = 192
_NOISE_FLOOR = 0.05  # added to the variance of each component, to avoid amplifying noise
_POSITION_SCALE = 0.7


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Create an untrained CLIP: ViT of 5 layers x 192, text transformer of 3 layers x 128, 512 dimensions."""
    vision = {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 4 * VISION_WIDTH,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": 512,
    }
    text = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=512))


@torch.no_grad()
def start_from_patches(model: CLIPModel, pixel_values: torch.Tensor) -> None:
    """Initialise the patch filters and the positions of an untrained model.

    Args:
        model: Changed in place.
        pixel_values: float32 [n, 3, 224, 224], normalised, with n of at least some hundreds.
    """
    patches = pixel_values.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # [n, 3, 7, 7, 32, 32]
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)[::2]  # [n * 49 / 2, 3072]
    mean = patches.mean(0)
    covariance = (patches - mean).t() @ (patches - mean) / len(patches)
    variances, directions = torch.linalg.eigh(covariance)  # ascending
    whitening = directions[:, -VISION_WIDTH:] / (variances[-VISION_WIDTH:] + _NOISE_FLOOR).sqrt()
    mixing = torch.linalg.qr(
        torch.randn(VISION_WIDTH, VISION_WIDTH)
    ).Q  # no channel starts out more important
    filters = mixing @ whitening.t()  # [192, 3072]
    embeddings = model.vision_model.embeddings
    embeddings.patch_embedding.weight.copy_(filters.view(VISION_WIDTH, 3, PATCH, PATCH))
    # The convolution has no bias, so the positions subtract the mean.
    positions = _POSITION_SCALE * position_waves(SIDE // PATCH)
    embeddings.position_embedding.weight[1:] = positions - filters @ mean
    embeddings.class_embedding.normal_(0, 0.5)


def position_waves(side: int) -> torch.Tensor:
    """Return sines and cosines of the row and the column: float32 [side * side, 192]."""
    rows, columns = np.mgrid[:side, :side].reshape(2, -1)
    frequencies = 20.0 ** -np.linspace(0, 1, VISION_WIDTH // 4, endpoint=False)
    waves = [wave(axis[:, None] * frequencies) for axis in (columns, rows) for wave in (np.sin, np.cos)]
    return torch.tensor(np.concatenate(waves, axis=1), dtype=torch.float32)
