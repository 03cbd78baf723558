"""A model of MTEB that embeds images and texts on a server.

    mteb.evaluate(ServedClip("localhost:8001"), mteb.get_tasks(["CIFAR10ZeroShot"]))

Source: mteb 2.26, models/models_protocols.py, for the interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tritonclip import Client

Array = npt.NDArray[np.float32]


class ServedClip:
    """A model with the encoder interface of MTEB.

    Args:
        model_name: URL of the server.
        revision: Has no effect; the server has chosen the weights.
        **options: Ignored; MTEB passes options of local models.
    """

    def __init__(self, model_name: str, revision: str | None = None, **options: Any) -> None:
        self._client = Client(model_name)

    def encode(self, inputs: Iterable[Mapping[str, Any]], **options: Any) -> Array:
        """Embed the batches of a data loader.

        Args:
            inputs: Batches with the column `text`, `image` or both.
            **options: Ignored: MTEB names the task, the split and the kind of prompt.

        Returns:
            float32 [n, d]. Unit L2 norm, or the sum of both embeddings if there are both columns.
        """
        return np.concatenate([self._embed(batch) for batch in inputs])

    def similarity(self, embeddings1: Array, embeddings2: Array) -> torch.Tensor:
        """Compute the cosine of every pair: float32 [n, m]."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> torch.Tensor:
        """Compute the cosine of each row with the same row of the other: float32 [n]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """The description of the model: checkpoint and identity of the weights that are served."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        served = next(model for model in self._client.models() if model.name == "clip_image_embedding")
        about = {
            "name": f"tritonclip/{served.checkpoint.replace('/', '-')}",
            "revision": served.identity,
            "modalities": ["image", "text"],
            "similarity_fn_name": ScoringFunction.COSINE,
        }
        return ModelMeta.create_empty(overwrites=about)

    def _embed(self, batch: Mapping[str, Any]) -> Array:
        columns = {"text": self._client.embed_texts_many, "image": self._client.embed_images_many}
        embeds = [np.stack(list(embed(batch[name]))) for name, embed in columns.items() if name in batch]
        return np.sum(embeds, axis=0, dtype=np.float32)


def _unit(embeds: Array | torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.atleast_2d(torch.as_tensor(embeds)), dim=-1)
