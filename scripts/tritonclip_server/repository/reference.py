"""The reference: a checkpoint as transformers computes it, for every command that compares with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPModel
from transformers.image_transforms import get_resize_output_image_size
from transformers.utils.logging import disable_progress_bar

from tritonclip_server.repository.image_settings import (
    INTERPOLATIONS,
    PILLOW,
    TORCHVISION,
    load_image_processor,
)

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
        image_processor: The parameter of `image_preprocess`. "torchvision" needs no torchvision: where it is
            not installed, torch does the same steps here.
        **options: Further arguments of `CLIPModel.from_pretrained`.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        image_processor: str = TORCHVISION,
        **options: Any,
    ) -> None:
        disable_progress_bar()
        self.checkpoint = checkpoint
        self.model = CLIPModel.from_pretrained(checkpoint, dtype=dtype, **options).eval().to(device)
        self._kind = image_processor

    @cached_property
    def image_processor(self) -> Any:
        """Image processor of the checkpoint."""
        if self._kind == TORCHVISION and importlib.util.find_spec("torchvision") is not None:
            return load_image_processor(self.checkpoint)
        processor = load_image_processor(self.checkpoint, "pil")
        if self._kind != PILLOW:
            kind = type(processor)
            processor.__class__ = type(kind.__name__, (_TorchSteps, kind), {})
        return processor

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


class _TorchSteps:
    """Steps of transformers' torchvision image processors, for its Pillow ones."""

    def resize(self, image: np.ndarray, size: Any, resample: int | None = None, **_: Any) -> np.ndarray:
        """Resize uint8 [3, height, width]."""
        if size.shortest_edge:
            side = size.shortest_edge
            wanted = get_resize_output_image_size(image, side, False, input_data_format="channels_first")
        else:
            wanted = (size.height, size.width)
        if image.shape[1:] == tuple(wanted):
            return image
        pixels = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0)
        mode = INTERPOLATIONS[2 if resample is None else resample]
        options = {} if mode.startswith("nearest") else {"align_corners": False, "antialias": True}
        if mode == "bilinear" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
            pixels = pixels.float()  # torchvision takes the kernel for uint8 on these CPUs only
        resized = torch.nn.functional.interpolate(pixels, wanted, mode=mode, **options)[0]
        return np.asarray(resized.round().to(torch.uint8).numpy())

    def center_crop(self, image: np.ndarray, size: Any, **_: Any) -> np.ndarray:
        """Crop the centre of uint8 [3, height, width]; a smaller image is padded with zeros."""
        for axis, wanted in ((1, size.height), (2, size.width)):
            missing = max(0, wanted - image.shape[axis])
            padding = [(0, 0)] * 3
            padding[axis] = (missing // 2, missing - missing // 2)
            image = np.pad(image, padding)
            first = (image.shape[axis] - wanted) // 2
            image = np.take(image, range(first, first + wanted), axis)
        return image


def _unit_rows(rows: torch.Tensor) -> np.ndarray:
    """Scale each row to an L2 norm of 1."""
    return np.asarray(torch.nn.functional.normalize(rows, dim=-1).numpy())
