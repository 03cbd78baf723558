"""Label embeddings through the cache: each distinct label of a dynamic batch is encoded at most once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_cache import LabelCache
from clip_common.groups import RequestError, check_finite, element_name

Encode = Callable[[Sequence[str]], tuple[np.ndarray, list[int]]]
"""Texts to float32 [n, dim] of unit L2 norm and token counts."""


class Tokens(NamedTuple):
    """A text as tokens."""

    ids: np.ndarray
    """int32 [tokens], at most as many as the tower has positions."""
    total: int
    """Tokens before truncation, start and end included."""


@dataclass
class LookupCounts:
    """Counts of one lookup. Hits and misses add up to the number of labels."""

    hits: int = 0
    """Labels that needed no encoding, including repetitions within the lookup."""
    misses: int = 0
    """Labels that were encoded."""
    evictions: int = 0
    """Entries evicted to make room."""


def check_label(label: bytes, position: int, shape: Sequence[int], max_bytes: int) -> None:
    """Reject a label that is too long, not UTF-8, or blank.

    Raises:
        RequestError: The text names the label and says how to correct it.
    """
    name = element_name("label", position, shape)
    if len(label) > max_bytes:
        raise RequestError(
            f"{name} is too long: {len(label)} bytes, the limit is {max_bytes} (max_label_bytes); shorten it"
        )
    try:
        text = label.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not valid UTF-8 at byte {error.start}; send UTF-8") from error
    if not text.strip():
        raise RequestError(f"{name} is empty; send a text")


class LabelEmbedder:
    """Looks labels up in the cache and encodes the missing ones in one call.

    Args:
        encode: Encodes texts.
        cache: Keeps embeddings between calls.
    """

    def __init__(self, encode: Encode, cache: LabelCache) -> None:
        self._encode, self._cache = encode, cache

    def embed(self, labels: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, LookupCounts]:
        """Embed labels, each valid UTF-8; repetitions are allowed.

        Returns:
            float32 [n, dim] of unit L2 norm, int32 [n] token counts, and the counts of the lookup.

        Raises:
            EmbeddingError: An embedding is not finite. None is cached.
        """
        embeds, token_counts, missing = self._cache.look_up(labels)
        if not len(missing):
            return embeds, token_counts, LookupCounts(hits=len(labels))
        new_labels = list(dict.fromkeys(labels[index] for index in missing))
        new_embeds, new_counts = self._encode([label.decode("utf-8") for label in new_labels])
        row_of = {label: row for row, label in enumerate(new_labels)}
        new_rows = [row_of[labels[index]] for index in missing]
        embeds[missing] = new_embeds[new_rows]
        check_finite("label", embeds, (1, len(labels)))
        token_counts[missing] = np.array(new_counts, np.int32)[new_rows]
        entries = zip(new_labels, new_embeds, new_counts, strict=True)
        evictions = self._cache.add(entries)
        return embeds, token_counts, LookupCounts(len(labels) - len(new_labels), len(new_labels), evictions)


def read_label_file(path: Path) -> list[bytes]:
    """Read labels from a UTF-8 file, one per line, skipping blank lines; return none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip().encode() for line in lines if line.strip()]
