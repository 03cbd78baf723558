"""A model type of clip_benchmark that embeds images and texts on a server.

    python client/examples/clip_benchmark_model.py eval --model_type tritonclip --model localhost:8001 ...

All options of clip_benchmark stay as they are; `--model` is the server's URL. The transform and the tokenizer
call the server, so the worker processes of the data loader embed the images. `encode_image` and `encode_text`
return what they receive.

Source: clip_benchmark 1.6.2, models/__init__.py and metrics/, for the interface.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from tritonclip import Client


class ServedClip(torch.nn.Module):
    """A model with the interface of open_clip, for embeddings that the server has computed."""

    def encode_image(self, embeds: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings of the transform: float32 [n, d], unit L2 norm."""
        return embeds

    def encode_text(self, embeds: torch.Tensor) -> torch.Tensor:
        """Return the text embeddings of the tokenizer: float32 [m, d], unit L2 norm."""
        return embeds


class EmbedImage:
    """The transform of a data set: embeds one PIL image as float32 [d], unit L2 norm."""

    def __init__(self, client: Client) -> None:
        self._client = client  # it pickles, and opens its own connections in each worker process

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Embed an image."""
        return torch.from_numpy(self._client.embed_images(image))


def load_tritonclip(
    model_name: str, pretrained: str = "", cache_dir: str | None = None, device: str = "cpu"
) -> tuple[ServedClip, EmbedImage, Callable[[list[str]], torch.Tensor]]:
    """Return model, transform and tokenizer, as each loader of clip_benchmark does.

    Args:
        model_name: URL of the server. The workers of the data loader are forked, so `http://` is safest.
        pretrained: Has no effect; the server has chosen the weights.
        cache_dir: Has no effect.
        device: Has no effect.
    """
    client = Client(model_name)
    return ServedClip(), EmbedImage(client), lambda texts: torch.from_numpy(client.embed_texts(texts))


def main() -> Any:
    """Register the model type, and run the command of clip_benchmark."""
    from clip_benchmark import models

    models.TYPE2FUNC["tritonclip"] = load_tritonclip
    models.MODEL_TYPES.append("tritonclip")
    from clip_benchmark import cli  # it reads MODEL_TYPES when it is imported

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
