"""Labels to embeddings through the cache: each distinct label of a dynamic batch is encoded at most once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_cache import ABSENT, LabelCache
from clip_common.groups import RequestError, element

Encode = Callable[[Sequence[str]], tuple[np.ndarray, list[int]]]
"""Texts to float32 [n, dim] of unit L2 norm and token counts."""


@dataclass
class CacheCounts:
    """What one look-up did; hits and misses add up to the labels that were asked for."""

    hits: int = 0
    """Labels answered without encoding them, repetitions within the look-up included."""
    misses: int = 0
    """Labels encoded."""
    evictions: int = 0
    """Entries dropped to make room."""


def check_label(label: bytes, position: int, shape: Sequence[int], max_bytes: int) -> None:
    """Refuses a label that is too long, not UTF-8, or blank.

    Raises:
        RequestError: Names the label and what to do.
    """
    where = element("label", position, shape)
    if len(label) > max_bytes:
        raise RequestError(
            f"{where} is too long: {len(label)} bytes, the limit is {max_bytes} (max_label_bytes); shorten it"
        )
    try:
        text = label.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{where} is not valid UTF-8 at byte {error.start}; send UTF-8") from error
    if not text.strip():
        raise RequestError(f"{where} is empty; send a text")


class LabelEmbedder:
    """Looks labels up and encodes what is missing, all of it in one call of the encoder.

    Args:
        encode: The text tower.
        cache: Where embeddings are kept between calls.
    """

    def __init__(self, encode: Encode, cache: LabelCache) -> None:
        self._encode, self._cache = encode, cache

    def embed(self, labels: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, CacheCounts]:
        """Embeds labels, each valid UTF-8, repetitions allowed.

        Returns:
            float32 [n, dim] of unit L2 norm, int32 [n] token counts, and what the cache did.
        """
        rows = self._cache.find(labels)
        embeds, token_counts = self._cache.rows(rows)
        missing = np.flatnonzero(rows == ABSENT)
        if not len(missing):
            return embeds, token_counts, CacheCounts(hits=len(labels))
        number = {label: place for place, label in enumerate(dict.fromkeys(labels[at] for at in missing))}
        new_embeds, new_counts = self._encode([label.decode("utf-8") for label in number])
        wanted = [number[labels[at]] for at in missing]
        embeds[missing] = new_embeds[wanted]
        token_counts[missing] = np.array(new_counts, np.int32)[wanted]
        entries = zip(number, new_embeds, new_counts, strict=True)
        evictions = sum(self._cache.put(*entry) for entry in entries)
        return embeds, token_counts, CacheCounts(len(labels) - len(number), len(number), evictions)


def read_label_file(path: Path) -> list[bytes]:
    """The labels of a UTF-8 file, one a line, blank lines left out; none where there is no such file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip().encode() for line in lines if line.strip()]
