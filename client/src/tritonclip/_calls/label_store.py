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
    """Embeddings and token counts by prompt, the least recently used dropped first; safe for threads.

    All are of one version of the server's models, since embeddings of two checkpoints do not compare.
    """

    def __init__(self, max_prompts: int = MAX_PROMPTS) -> None:
        self._max_prompts = max_prompts
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Embeddings, int]] = OrderedDict()
        self._version = ""

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
        version: str | None,
    ) -> tuple[Embeddings, list[int], str] | None:
        """Keep what was just embedded; give all prompts' embeddings float32 [m, d], token counts, version.

        None if one was dropped since `missing` was asked, or is of another version; ask again.

        Args:
            prompts: All that are asked for.
            fresh: Those that were missing.
            embeds: Theirs, float32 [d] each.
            counts: Tokens of each.
            version: Of the models that embedded them; None where none was missing.
        """
        new = {p: (e, c) for p, e, c in zip(fresh, embeds, counts, strict=True)}
        with self._lock:
            if version is not None and version != self._version:
                self._kept.clear()
                self._version = version
            found = [new.get(prompt) or self._kept.get(prompt) for prompt in prompts]
            self._kept.update(new)
            for prompt in prompts:
                if prompt in self._kept:
                    self._kept.move_to_end(prompt)
            while len(self._kept) > self._max_prompts:
                self._kept.popitem(last=False)
            of = self._version
        rows = [row for row in found if row is not None]
        if len(rows) < len(prompts):
            return None
        return np.stack([embed for embed, _ in rows]), [count for _, count in rows], of

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
