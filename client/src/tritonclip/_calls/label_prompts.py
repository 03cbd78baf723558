"""Labels in several templates: the embedding of a label is the mean over its sentences, scaled to norm 1.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021),
section 3.1.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tritonclip._calls import codec
from tritonclip._calls.flows import MAX_PROMPTS_PER_REQUEST
from tritonclip._calls.steps import Flow, infer
from tritonclip._calls.token_counts import TokenCounts, report_counts
from tritonclip.errors import InvalidInputError

Array = npt.NDArray[np.float32]
Part = tuple[Array, TokenCounts]
_LABEL = re.compile(r"^label (\d+)\b")


class LabelPrompts:
    """The sentences of labels in templates, and the embeddings of the labels.

    Args:
        labels: m checked labels.
        templates: t checked templates.
    """

    def __init__(self, labels: Sequence[str], templates: Sequence[str]) -> None:
        self._labels, self._templates = labels, templates
        self._prompts = [template.format(label) for label in labels for template in templates]

    def requests(self) -> Iterator[Flow[Part]]:
        """Yield the flows that embed the sentences in order; each sends one request."""
        for start in range(0, len(self._prompts), MAX_PROMPTS_PER_REQUEST):
            yield self._embed(start)

    def label_embeds(self, parts: Sequence[Part]) -> Array:
        """Report truncated sentences, and average the embeddings of each label.

        Args:
            parts: The results of all `requests`, in order.

        Returns:
            float32 [m, d], unit L2 norm.
        """
        self._report([tokens for _, counts in parts for tokens in counts.tokens], parts[0][1].limit)
        embeds = np.concatenate([embeds for embeds, _ in parts])
        means = embeds.reshape(len(self._labels), len(self._templates), -1).mean(axis=1)
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)

    def _embed(self, start: int) -> Flow[Part]:
        sent = self._prompts[start : start + MAX_PROMPTS_PER_REQUEST]
        try:
            return (yield from infer(codec.embed_texts_call(sent)))
        except InvalidInputError as error:  # the server counts the sentences of the request
            error.message = _LABEL.sub(
                lambda found: f"label {(start + int(found[1])) // len(self._templates)}", error.message
            )
            raise

    def _report(self, tokens: list[int], limit: int) -> None:
        """Report each label with its longest sentence."""
        count = len(self._templates)
        groups = [tokens[start : start + count] for start in range(0, len(tokens), count)]
        longest = [self._templates[group.index(max(group))] for group in groups]
        report_counts(
            TokenCounts([max(group) for group in groups], limit),
            self._labels,
            kind="label",
            templates=longest if count > 1 else None,
            total=sum(tokens),
        )
