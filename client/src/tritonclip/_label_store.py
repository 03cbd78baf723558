"""The label embeddings that a client keeps where it scores by itself (`preprocess="client"`)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_PROMPTS = 20_000  # 40 MB at 512 dimensions

Embeddings = npt.NDArray[np.float32]


class LabelStore:
    """Embeddings and token counts by prompt, the least recently used dropped first; safe for threads."""

    def __init__(self, max_prompts: int = MAX_PROMPTS) -> None:
        self._max_prompts = max_prompts
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Embeddings, int]] = OrderedDict()

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Those that are not kept, each once."""
        with self._lock:
            return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]

    def join(
        self,
        prompts: Sequence[str],
        fresh: Sequence[str],
        embeds: Sequence[Embeddings],
        counts: Sequence[int],
    ) -> tuple[Embeddings, list[int]] | None:
        """Keep what was just embedded, and give all prompts' embeddings float32 [m, d] and token counts.

        None if one was dropped since `missing` was asked; ask again.
        """
        new = {p: (e, c) for p, e, c in zip(fresh, embeds, counts, strict=True)}
        with self._lock:
            found = [new.get(prompt) or self._kept.get(prompt) for prompt in prompts]
            self._kept.update(new)
            for prompt in prompts:
                if prompt in self._kept:
                    self._kept.move_to_end(prompt)
            while len(self._kept) > self._max_prompts:
                self._kept.popitem(last=False)
        rows = [row for row in found if row is not None]
        if len(rows) < len(prompts):
            return None
        return np.stack([embed for embed, _ in rows]), [count for _, count in rows]
