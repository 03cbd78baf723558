"""The reference: a checkpoint as transformers computes it, for every command that compares with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPModel
from transformers.utils.logging import disable_progress_bar

from tritonclip_server.repository.image_settings import load_image_processor

CHUNK = 64
"""Images or texts per forward pass, if a caller asks for no other number."""


@dataclass(frozen=True)
class ReferenceOutput:
    """Output of one forward pass over n images and m texts, in the precision of the model.

    Attributes:
        image_embeds: float [n, dim], unit L2 norm.
        text_embeds: float [m, dim], unit L2 norm.
        logits: float [n, m], cosines times the logit scale.
        scores: float [n, m], a softmax over the texts.
    """

    image_embeds: np.ndarray
    text_embeds: np.ndarray
    logits: np.ndarray
    scores: np.ndarray


class Reference:
    """The model, image processor and tokenizer of a checkpoint.

    Args:
        checkpoint: A directory in Hugging Face format, or a hub id.
        dtype: Precision of the weights and of the computation.
        device: Device that computes.
        pillow: Prepare images with Pillow, even if torchvision is installed.
        **options: Further arguments of `CLIPModel.from_pretrained`.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        pillow: bool = False,
        **options: Any,
    ) -> None:
        disable_progress_bar()
        self.checkpoint = checkpoint
        self.model = CLIPModel.from_pretrained(checkpoint, dtype=dtype, **options).eval().to(device)
        self._backend = "pil" if pillow else None

    @cached_property
    def image_processor(self) -> Any:
        """Image processor of the checkpoint."""
        return load_image_processor(self.checkpoint, self._backend)

    @cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the checkpoint. Without a padding token it pads with the end token."""
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @property
    def logit_scale(self) -> float:
        """Multiplier of the cosines."""
        return float(self.model.logit_scale.exp().item())

    def pixel_values(self, images: Sequence[Any], **options: bool) -> torch.Tensor:
        """Prepare images for the model.

        Args:
            images: Pillow images or uint8 arrays.
            **options: Arguments of the image processor, for example `do_normalize=False`.

        Returns:
            float32 [n, 3, height, width], normalised by default.
        """
        pixels: torch.Tensor = self.image_processor(list(images), return_tensors="pt", **options)[
            "pixel_values"
        ]
        return pixels

    def tokenize(self, texts: Sequence[str]) -> Any:
        """Return token ids and attention mask, int64 [m, tokens], padded on the right and truncated."""
        length = self.model.config.text_config.max_position_embeddings
        return self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, texts: Sequence[str]) -> ReferenceOutput:
        """Run both towers once.

        Args:
            pixels: As from `pixel_values`.
            texts: Texts, used as they are.
        """
        device = self.model.device
        output = self.model(pixel_values=pixels.to(device), **self.tokenize(texts).to(device))
        logits = output.logits_per_image
        found = (output.image_embeds, output.text_embeds, logits, logits.softmax(dim=-1))
        return ReferenceOutput(*(tensor.cpu().numpy() for tensor in found))

    @torch.inference_mode()
    def embed_pixels(self, pixels: torch.Tensor, chunk: int = CHUNK) -> np.ndarray:
        """Embed prepared images: float [n, 3, height, width] -> float [n, dim], unit L2 norm."""
        parts = [self.model.get_image_features(part).pooler_output for part in pixels.split(chunk)]
        return _unit_rows(torch.cat(parts))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], chunk: int = CHUNK) -> np.ndarray:
        """Embed texts -> float [m, dim], unit L2 norm."""
        parts = [
            self.model.get_text_features(**self.tokenize(texts[first : first + chunk])).pooler_output
            for first in range(0, len(texts), chunk)
        ]
        return _unit_rows(torch.cat(parts))


def _unit_rows(rows: torch.Tensor) -> np.ndarray:
    """Scale each row to an L2 norm of 1."""
    return np.asarray(torch.nn.functional.normalize(rows, dim=-1).numpy())
