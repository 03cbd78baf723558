"""CLIP's tokenizer and text tower with its projection: strings to unit-norm text embeddings.

A pass is padded to its longest text, not to all positions of the tower. Attention is causal and the
embedding is read at the end token, so the padding after it does not change the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import nn

from clip_common.tower import Tower, TowerConfig, load_state, unit_norm
from clip_labels import Tokens

MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens in the largest pass and turn, by the type of the device."""
LEGACY_EOS_TOKEN_ID = 2
"""Wrong id in checkpoints made before transformers 4.31; their embedding is read at the highest token id."""


class TextTokenizer:
    """Converts texts to token ids exactly as the checkpoint's tokenizer does.

    Args:
        path: A `tokenizer.json`.
        max_length: Positions of the tower. Longer texts are truncated, keeping the end token.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self._added = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Convert texts to tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [Tokens(np.array(one.ids, np.int32), self._count(one)) for one in encodings]

    def _count(self, encoding: Encoding) -> int:
        """Count the tokens before truncation: each part that was cut off has a start and an end again."""
        return len(encoding) + sum(len(part) - self._added for part in encoding.overflowing)


class TextModel(nn.Module):
    """CLIP's text tower: int64 [n, tokens] -> float32 [n, dim], unit L2 norm."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        config = TowerConfig.from_dict(settings)
        width = config.hidden_size
        self.eos_token_id: int = settings["eos_token_id"]
        # The initial values of nn.Embedding on the device "meta" would import torch._dynamo, for 2 s.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(settings["vocab_size"], width))
        positions = torch.empty(settings["max_position_embeddings"], width)
        self.position_embedding = nn.Embedding.from_pretrained(positions)
        self.tower = Tower(config)
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.text_projection = nn.Linear(width, settings["projection_dim"], bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute int64 [n, tokens], padded on the right -> float32 [n, dim], unit L2 norm."""
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]  # [n, tokens, width]
        x = self.tower(x, self._end_positions(ids))  # [n, width]
        return unit_norm(self.text_projection(self.final_layer_norm(x)))

    def _end_positions(self, ids: torch.Tensor) -> torch.Tensor:
        if self.eos_token_id == LEGACY_EOS_TOKEN_ID:
            return ids.argmax(dim=-1)
        return (ids == self.eos_token_id).int().argmax(dim=-1)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Cast the tower; embeddings, final norm and projection stay float32."""
        self.tower.set_precision(dtype)


def load_text_model(version_directory: Path) -> TextModel:
    """Build the tower from `text.json` and `text.safetensors`, in float32 on the CPU."""
    settings = json.loads((version_directory / "text.json").read_text(encoding="utf-8"))
    state = load_state(version_directory / "text.safetensors", "text_model.", settings["hidden_act"])
    state = {name.removeprefix("embeddings."): tensor for name, tensor in state.items()}
    with torch.device("meta"):
        model = TextModel(settings)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


class TextEncoder:
    """Encodes any number of texts in passes of bounded size, each of texts of similar length.

    Args:
        model: The tower, with its precision set and on `device`.
        tokenizer: The checkpoint's tokenizer.
        device: The tower's device.
        max_bucket: Texts in the largest pass.
        max_tokens: Tokens in the largest pass, padding included, unless one text has more.
        pad_token_id: Token id that pads the shorter texts of a pass.
    """

    def __init__(
        self,
        model: TextModel,
        tokenizer: TextTokenizer,
        device: torch.device,
        max_bucket: int,
        max_tokens: int,
        pad_token_id: int,
    ) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._max_bucket, self._max_tokens, self._pad_token_id = max_bucket, max_tokens, pad_token_id

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        """Return float32 [n, dim] of unit L2 norm, and each text's number of tokens before truncation."""
        tokens = self._tokenizer(texts)
        return self.encode_tokens([one.ids for one in tokens]), [one.total for one in tokens]

    @torch.inference_mode()
    def encode_tokens(self, ids: Sequence[np.ndarray]) -> np.ndarray:
        """Encode int32 [tokens] each -> float32 [n, dim], unit L2 norm."""
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        embeds = np.empty((len(ids), self._model.text_projection.out_features), np.float32)
        for part in text_passes([len(ids[index]) for index in order], self._max_bucket, self._max_tokens):
            chosen = order[part]
            embeds[chosen] = self._model(self._padded([ids[index] for index in chosen])).cpu().numpy()
        return embeds

    def _padded(self, ids: Sequence[np.ndarray]) -> torch.Tensor:
        rows = np.full((len(ids), max(map(len, ids))), self._pad_token_id)
        for row, one in zip(rows, ids, strict=True):
            row[: len(one)] = one
        return torch.from_numpy(rows).to(self._device)


def text_passes(lengths: Sequence[int], max_texts: int, max_tokens: int) -> Iterator[slice]:
    """Split texts into passes.

    Args:
        lengths: Tokens of each text, in ascending order.
        max_texts: Texts in the largest pass.
        max_tokens: Tokens in the largest pass, padding included. A text that has more gets a pass alone.
    """
    start = 0
    for index, length in enumerate(lengths):
        size = index + 1 - start
        if size > 1 and (size > max_texts or size * length > max_tokens):
            yield slice(start, index)
            start = index
    if lengths:
        yield slice(start, len(lengths))
