"""Flows of a client that preprocesses images and scores labels itself (`preprocess="client"`).

The client asks the server for embeddings only. It keeps the labels' embeddings, so known labels are not sent
again.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonclip._answers.predictions import PredictionBatch, Predictions, answer, name_images
from tritonclip._calls import codec, wire
from tritonclip._calls.flows import (
    MAX_PROMPTS_PER_REQUEST,
    MODELS_CHANGED,
    Array,
    Embeds,
    Flows,
    Group,
    answer_group,
    check_same_version,
)
from tritonclip._calls.request import Request
from tritonclip._calls.steps import Flow, infer_versioned, work
from tritonclip._calls.token_counts import LabelReport, TokenCounts
from tritonclip._images.preprocess import ProcessorSettings, preprocess_image, preprocess_images
from tritonclip._images.sources import as_images
from tritonclip._process import forks
from tritonclip._settings import Settings
from tritonclip.errors import InvalidInputError, ModelNotReadyError, ServerUnavailableError, TritonClipError

_LABEL = re.compile(r"^label (\d+)\b")
MAX_KEPT_PROMPTS = 20_000  # 40 MB at 512 dimensions


@dataclass(frozen=True, kw_only=True)
class VisionInfo:
    """The server's values that a client needs to preprocess and score.

    Attributes:
        processor: The checkpoint's image processing.
        logit_scale: The multiplier from cosine to logit.
        version: The version of the models that have this checkpoint; empty if the server does not report it.
    """

    processor: ProcessorSettings
    logit_scale: float
    version: str


class ClientScoringFlows(Flows):
    """The flows of one client that preprocesses images and scores labels itself.

    Args:
        settings: The client's settings.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._labels = LabelStore()
        self._vision_info: VisionInfo | None = None

    def classify(self, images: object, ranking: codec.Ranking) -> Flow[Predictions | PredictionBatch]:
        """See `Flows.classify`."""
        text_embeds = yield from self._embed_labels(ranking, ranking.report_counts)
        image_embeds, single = yield from self.embed_images_versioned(images)
        ranked = yield from self._rank(image_embeds, text_embeds, ranking)
        return answer(ranked, images, single=single)

    def embed_images_versioned(self, images: object) -> Flow[tuple[Embeds, bool]]:
        """See `Flows.embed_images_versioned`."""
        several, single = as_images(images)
        vision = yield from self._vision()
        pixels = yield from work(
            lambda request: preprocess_images(several, vision.processor, self.fetch_within(request))
        )
        return (yield from self._embed_pixels(pixels, vision)), single

    def classify_group(
        self, group: Group[Any], ranking: codec.Ranking, report: LabelReport
    ) -> Flow[list[Predictions | TritonClipError]]:
        """See `Flows.classify_group`."""
        text_embeds = yield from self._embed_labels(ranking, report)
        ranked: list[Predictions | TritonClipError] = []
        for embed in (yield from self._embed_pixels_group(group)):
            if isinstance(embed, TritonClipError):
                ranked.append(embed)
                continue
            if embed.version != text_embeds.version:
                text_embeds = yield from self._embed_labels(ranking, version=embed.version)
            ranked += yield from self._rank(embed, text_embeds, ranking)
        name_images(ranked, [image for _, image in group])
        return ranked

    def embed_images_group(self, group: Group[Any]) -> Flow[list[Array | TritonClipError]]:
        """See `Flows.embed_images_group`."""
        embeds = yield from self._embed_pixels_group(group)
        return [one if isinstance(one, TritonClipError) else one.array[0] for one in embeds]

    def _vision(self, version: str | None = None) -> Flow[VisionInfo]:
        """Return the server's processor settings and logit scale, requested once per version."""
        known = self._vision_info
        if known is None or (version is not None and known.version not in ("", version)):
            question = wire.Question(wire.Topic.MODEL_PARAMETERS, wire.PIXEL_EMBEDDING)
            known = decode_vision((yield question))
            self._vision_info = known
        return known

    def _embed_labels(
        self,
        ranking: codec.Ranking,
        report: Callable[[TokenCounts], None] | None = None,
        *,
        version: str | None = None,
    ) -> Flow[Embeds]:
        """Embed the labels to float32 [m, d]; only unknown ones are sent.

        Args:
            ranking: The labels and their template.
            report: Takes the labels' token counts.
            version: If given, all labels are embedded again, because the kept ones are of another version.
        """
        prompts, joined = ranking.prompts, None
        if version is not None:
            self._labels.clear()
        while joined is None:
            unknown = self._labels.missing(prompts)
            embeds: list[Array] = []
            tokens: list[int] = []
            limit = 0
            versions: set[str] = set()
            for start in range(0, len(unknown), MAX_PROMPTS_PER_REQUEST):
                sent = unknown[start : start + MAX_PROMPTS_PER_REQUEST]
                try:
                    (part, counts), answered_by = yield from infer_versioned(codec.embed_texts_call(sent))
                except InvalidInputError as error:
                    error.message = _with_index(error.message, sent, prompts)
                    raise
                versions.add(answered_by)
                embeds.extend(part)
                tokens.extend(counts.tokens)
                limit = counts.limit
            if len(versions) <= 1:
                known = TokenCounts(tokens, limit), max(versions, default=None)
                joined = self._labels.join(prompts, unknown, embeds, *known)
        array, token_counts, embedded_by = joined
        if report is not None:
            report(token_counts)
        return Embeds(array, embedded_by)

    def _rank(
        self, image_embeds: Embeds, text_embeds: Embeds, ranking: codec.Ranking
    ) -> Flow[list[Predictions]]:
        if image_embeds.version != text_embeds.version:
            text_embeds = yield from self._embed_labels(ranking, version=image_embeds.version)
        check_same_version(image_embeds.version, text_embeds.version)
        vision = yield from self._vision(image_embeds.version)
        return ranking.rank(codec.scores(image_embeds.array, text_embeds.array, vision.logit_scale))

    def _embed_pixels_group(self, group: Group[Any]) -> Flow[list[Embeds | TritonClipError]]:
        """Preprocess and embed each image of a group: float32 [1, d]."""
        vision = yield from self._vision()

        def prepare(image: object, index: int, request: Request) -> npt.NDArray[np.uint8]:
            return preprocess_image(image, index, vision.processor, self.fetch_within(request))

        def send(items: Sequence[tuple[int, npt.NDArray[np.uint8]]]) -> Flow[list[Embeds]]:
            embeds = yield from self._embed_pixels(_stack([one for _, one in items]), vision)
            return [Embeds(row[np.newaxis], embeds.version) for row in embeds.array]

        return (yield from answer_group(group, prepare, send))

    def _embed_pixels(self, pixels: npt.NDArray[np.uint8], vision: VisionInfo) -> Flow[Embeds]:
        """Embed pixels that were preprocessed with `vision`: float32 [n, d]."""
        embeds = Embeds(*(yield from infer_versioned(codec.embed_pixels_call(pixels))))
        now = yield from self._vision(embeds.version)
        if now.processor != vision.processor:
            raise ServerUnavailableError(MODELS_CHANGED, model=wire.PIXEL_EMBEDDING.name)
        return embeds


class LabelStore:
    """Embeddings and token counts by prompt; the least recently used are dropped first. Safe for threads.

    All are of one version of the server's models, since embeddings of two checkpoints cannot be compared.
    """

    def __init__(self, max_prompts: int = MAX_KEPT_PROMPTS) -> None:
        self._max_prompts = max_prompts
        self.renew()
        forks.renew_in_children(self)

    def renew(self) -> None:
        """Start empty, also in a forked process, because another thread may have held the lock."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Array, int]] = OrderedDict()
        self._version = ""
        self._token_limit = 0

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts that are not kept, without repetitions."""
        with self._lock:
            return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]

    def join(
        self,
        prompts: Sequence[str],
        new: Sequence[str],
        embeds: Sequence[Array],
        counts: TokenCounts,
        version: str | None,
    ) -> tuple[Array, TokenCounts, str] | None:
        """Keep new embeddings; return all prompts' embeddings float32 [m, d], token counts and version.

        Returns None if a prompt was dropped after the call of `missing`, or is of another version; try again.

        Args:
            prompts: All prompts that are wanted.
            new: The prompts that were missing.
            embeds: The embeddings of the new prompts, float32 [d] each.
            counts: The token counts of the new prompts.
            version: The version of the models that embedded them; None if none was missing.
        """
        added = {p: (e, c) for p, e, c in zip(new, embeds, counts.tokens, strict=True)}
        with self._lock:
            if version is not None:
                if version != self._version:
                    self._kept.clear()
                self._version, self._token_limit = version, counts.limit
            found = [added.get(prompt) or self._kept.get(prompt) for prompt in prompts]
            self._kept.update(added)
            for prompt in prompts:
                if prompt in self._kept:
                    self._kept.move_to_end(prompt)
            while len(self._kept) > self._max_prompts:
                self._kept.popitem(last=False)
            kept_version, limit = self._version, self._token_limit
        rows = [row for row in found if row is not None]
        if len(rows) < len(prompts):
            return None
        counts = TokenCounts([count for _, count in rows], limit)
        return np.stack([embed for embed, _ in rows]), counts, kept_version

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()


def decode_vision(parameters: Mapping[str, str]) -> VisionInfo:
    """Decode the parameters of `clip_pixel_embedding`'s configuration.

    Raises:
        ModelNotReadyError: A parameter is missing or malformed.
    """
    try:
        processor, logit_scale = parameters["processor"], float(parameters["logit_scale"])
        version = parameters.get("version", "")
    except KeyError as error:
        raise ModelNotReadyError(
            f"its configuration has no parameter {error}; prepare the repository again with "
            "`tritonclip-server prepare`, or use preprocess='server'",
            model=wire.PIXEL_EMBEDDING.name,
        ) from error
    return VisionInfo(
        processor=ProcessorSettings.from_json(processor), logit_scale=logit_scale, version=version
    )


def _with_index(message: str, sent: Sequence[str], prompts: Sequence[str]) -> str:
    """Replace the server's index of a label in the request by the caller's index."""
    return _LABEL.sub(lambda found: f"label {prompts.index(sent[int(found[1])])}", message)


def _stack(pixels: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    if len({one.shape for one in pixels}) > 1:
        raise InvalidInputError("the images differ in size, and this checkpoint does not crop")
    return np.stack(pixels)
