"""Vectors for search benchmarks: clustered like the embeddings of a model, and uniformly random.

Image vectors fill a cone of the sphere. They form groups of very different size, and vary in few directions
within a group. Text vectors fill another cone, and point only roughly to the images that they describe.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
GROUPS = 1000
CHUNK_ROWS = 50_000
DIRECTIONS = 32
"""Number of directions in which the images of a group vary."""

TEXT_SHARE = 0.35
"""Share of a text vector that points to an image; about the cosine of CLIP for an image and its caption."""


class Clustered:
    """A mixture of `GROUPS` groups whose sizes fall with 1 / rank^0.8."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self._cone = 1.5 * random.standard_normal(dim, np.float32)
        self._centres = 0.7 * random.standard_normal((GROUPS, dim), np.float32)
        self._directions = random.standard_normal((DIRECTIONS, dim), np.float32) * 0.6 / DIRECTIONS**0.5
        gap = random.standard_normal(dim, np.float32)
        self._gap = gap / np.linalg.norm(gap)
        shares = 1 / np.arange(1, GROUPS + 1) ** 0.8
        self._shares = shares / shares.sum()

    def images(self, count: int, seed: int) -> Array:
        """Sample image vectors: float32 [count, dim], unit L2 norm."""
        random = np.random.default_rng(seed)
        vectors = np.empty((count, len(self._cone)), np.float32)
        for start in range(0, count, CHUNK_ROWS):  # a single step would need four times the memory
            chunk = vectors[start : start + CHUNK_ROWS]
            group = random.choice(GROUPS, len(chunk), p=self._shares)
            along = random.standard_normal((len(chunk), DIRECTIONS), np.float32) @ self._directions
            noise = 0.2 * random.standard_normal(chunk.shape, np.float32)
            chunk[:] = unit(self._cone + self._centres[group] + along + noise)
        return vectors

    def texts(self, count: int, seed: int) -> Array:
        """Sample text vectors: float32 [count, dim], unit L2 norm."""
        random = np.random.default_rng(seed)
        cone = self._cone / np.linalg.norm(self._cone)
        meant = self.images(count, seed)
        meant = unit(
            meant - (meant @ cone)[:, None] * cone
        )  # the part in which the image differs from the others
        noise = random.standard_normal(meant.shape, np.float32) / len(cone) ** 0.5
        return unit(TEXT_SHARE * meant + 0.2 * cone + 0.8 * self._gap + 0.3 * noise)


def uniform(count: int, dim: int, seed: int) -> Array:
    """Sample vectors uniformly on the sphere: float32 [count, dim], unit L2 norm."""
    return unit(np.random.default_rng(seed).standard_normal((count, dim), np.float32))


def unit(vectors: Array) -> Array:
    """Scale each row to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def nearest(vectors: Array, queries: Array, k: int) -> npt.NDArray[np.int64]:
    """Return the k rows with the largest cosine for each of m queries: int64 [m, k], by a full scan."""
    scores = queries @ vectors.T
    return np.argpartition(-scores, k, axis=1)[:, :k]
