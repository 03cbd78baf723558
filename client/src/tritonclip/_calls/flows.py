"""Every method of the clients as a flow of steps, and the state that calls share. Nothing is sent here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tritonclip._bulk import Group
from tritonclip._calls import codec, info, probe, wire
from tritonclip._calls.checks import check_text, check_texts
from tritonclip._calls.label_store import LabelStore
from tritonclip._calls.request import Request
from tritonclip._calls.steps import Flow, ask, infer, infer_versioned, work
from tritonclip._calls.token_counts import LabelReport, note_counts
from tritonclip._images.fetch import Fetcher
from tritonclip._images.preprocess import preprocess_image, preprocess_images
from tritonclip._images.sources import Fetch, as_images, encode_image, encode_images, map_images
from tritonclip._settings import Settings
from tritonclip._types import Health, ModelInfo, ModelStatistics, Prediction
from tritonclip.errors import InferenceError, InvalidInputError, ServerUnavailableError, TritonClipError

E = TypeVar("E")
R = TypeVar("R")
Array = npt.NDArray[np.float32]
PROMPTS_A_CALL = 1000  # of labels that are scored in the client; a server need not take more at once
CHANGED = (
    "the server's models were changed during the call, or servers of different versions share it; try again"
)
_LABELS = re.compile(r"\blabels?\b")
_ALONE = re.compile(r"^(image|text) 0\b")


class Embeds(NamedTuple):
    """Embeddings of unit L2 norm, and the version of the model that made them."""

    array: Array
    version: str


class Flows:
    """The flows of one client.

    Args:
        settings: The client's.
    """

    def __init__(self, settings: Settings) -> None:
        self.fetcher = Fetcher(settings.fetch_timeout_s, settings.fetch_max_bytes)
        self._scores_here = settings.preprocess == "client"
        self._labels = LabelStore()
        self._vision_info: info.VisionInfo | None = None

    def classify(
        self, images: object, ranking: codec.Ranking
    ) -> Flow[list[Prediction] | list[list[Prediction]]]:
        """Rank labels for one image or several."""
        ranked: list[list[Prediction]]
        if self._scores_here:
            text_embeds = yield from self._embed_labels(ranking, ranking.report_counts)
            image_embeds, single = yield from self.embed_images_versioned(images)
            ranked = yield from self._rank(image_embeds, text_embeds, ranking)
        else:
            encoded, single = yield from self._encode(images)
            ranked = yield from infer(codec.classify_call(encoded, ranking))
        return ranked[0] if single else ranked

    def embed_images(self, images: object) -> Flow[tuple[Array, bool]]:
        """Embed images to float32 [n, d]; also tells whether a single image was given."""
        embeds, single = yield from self.embed_images_versioned(images)
        return embeds.array, single

    def embed_texts(self, texts: object) -> Flow[tuple[Array, bool]]:
        """Embed texts to float32 [m, d]; also tells whether a single text was given."""
        checked, single = check_texts(texts)
        return (yield from _send_texts(list(enumerate(checked)))), single

    def similarity(self, images: object, texts: object) -> Flow[Array]:
        """Cosine of every image with every text, float32 [n, m]."""
        checked, _ = check_texts(texts)
        text_embeds = yield from _embed_texts(checked)
        image_embeds, _ = yield from self.embed_images_versioned(images)
        if text_embeds.version != image_embeds.version:
            text_embeds = yield from _embed_texts(checked)
        check_same_version(image_embeds.version, text_embeds.version)
        return codec.similarity(image_embeds.array, text_embeds.array)

    def health(self, *, deep: bool) -> Flow[Health]:
        """The state of the server and of each public model, and where `deep`, what came of an inference."""
        live = yield from ask(lambda transport, request: transport.server_live(request), bool)
        ready = yield from ask(lambda transport, request: transport.server_ready(request), bool)
        models = {}
        for model in wire.PUBLIC_MODELS:
            models[model.name] = yield from _model_ready(model)
        inference, reason = (yield from probe.probe()) if deep else (None, None)
        return Health(live=live, ready=ready, models=models, inference=inference, reason=reason)

    def models(self) -> Flow[list[ModelInfo]]:
        """The weights of each public model."""
        infos = []
        for model in wire.PUBLIC_MODELS:
            parameters = yield from _parameters(model)
            infos.append(info.decode_model_info(model, parameters))
        return infos

    def statistics(self) -> Flow[list[ModelStatistics]]:
        """What each model has done."""
        entries = yield from ask(
            lambda transport, request: transport.statistics(request), list[dict[str, Any]]
        )
        return info.decode_statistics(entries)

    def _encode(self, images: object) -> Flow[tuple[list[bytes], bool]]:
        """The images' files, and whether a single one was given; bytes need no work that blocks."""
        several, single = as_images(images)
        if all(isinstance(image, bytes) for image in several):
            return encode_images(several), single
        return (yield from work(lambda request: encode_images(several, self._fetch(request)))), single

    def _fetch(self, request: Request) -> Fetch:
        """Fetches an image by its URL within the request's deadline."""
        return lambda url, where: self.fetcher.fetch(url, where, request.deadline.left_s)

    # Bulk: one group of a run.

    def classify_group(
        self, group: Group[Any], ranking: codec.Ranking, report: LabelReport
    ) -> Flow[list[list[Prediction] | TritonClipError]]:
        """Rank labels for each image of a group.

        Raises:
            InvalidInputError: If a label is invalid, which no other image could change.
        """
        if not self._scores_here:
            return (
                yield from _answer_group(
                    group,
                    lambda image, index, request: encode_image(image, index, self._fetch(request)),
                    lambda items: infer(codec.classify_call([one for _, one in items], ranking, report)),
                    ends_run=_is_about_labels,
                )
            )
        text_embeds = yield from self._embed_labels(ranking, report)
        ranked: list[list[Prediction] | TritonClipError] = []
        for embed in (yield from self._embed_pixels_group(group)):
            if isinstance(embed, TritonClipError):
                ranked.append(embed)
                continue
            if embed.version != text_embeds.version:
                text_embeds = yield from self._embed_labels(ranking, version=embed.version)
            ranked += yield from self._rank(embed, text_embeds, ranking)
        return ranked

    def embed_images_group(self, group: Group[Any]) -> Flow[list[Array | TritonClipError]]:
        """Embed each image of a group, float32 [d]."""
        if not self._scores_here:
            return (
                yield from _answer_group(
                    group,
                    lambda image, index, request: encode_image(image, index, self._fetch(request)),
                    lambda items: infer(codec.embed_images_call([one for _, one in items])),
                )
            )
        embeds = yield from self._embed_pixels_group(group)
        return [one if isinstance(one, TritonClipError) else one.array[0] for one in embeds]

    def embed_texts_group(self, group: Group[Any]) -> Flow[list[Array | TritonClipError]]:
        """Embed each text of a group, float32 [d]."""
        return (yield from _answer_group(group, lambda text, index, _: check_text(text, index), _send_texts))

    # Scores taken here: preprocess="client".

    def _vision(self, version: str | None = None) -> Flow[info.VisionInfo]:
        """The checkpoint's image settings and its logit scale, asked for once a version."""
        known = self._vision_info
        if known is None or (version is not None and known.version not in ("", version)):
            known = info.decode_vision((yield from _parameters(wire.PIXEL_EMBEDDING)))
            self._vision_info = known
        return known

    def _embed_labels(
        self,
        ranking: codec.Ranking,
        report: Callable[[Sequence[int]], None] | None = None,
        *,
        version: str | None = None,
    ) -> Flow[Embeds]:
        """The labels' embeddings float32 [m, d]; only those that are not kept are asked for.

        Where those that are kept are of another version than the one wanted, all are asked for anew.
        """
        prompts, joined = ranking.prompts, None
        if version is not None:
            self._labels.forget()
        while joined is None:
            fresh = self._labels.missing(prompts)
            embeds: list[Array] = []
            counts: list[int] = []
            versions: set[str] = set()
            for start in range(0, len(fresh), PROMPTS_A_CALL):
                call = codec.embed_texts_call(fresh[start : start + PROMPTS_A_CALL])
                part, answered_by = yield from infer_versioned(call)
                versions.add(answered_by)
                embeds.extend(part[0])
                counts.extend(part[1])
            if len(versions) <= 1:
                joined = self._labels.join(prompts, fresh, embeds, counts, max(versions, default=None))
        if report is not None:
            report(joined[1])
        return Embeds(joined[0], joined[2])

    def _rank(
        self, image_embeds: Embeds, text_embeds: Embeds, ranking: codec.Ranking
    ) -> Flow[list[list[Prediction]]]:
        if image_embeds.version != text_embeds.version:
            text_embeds = yield from self._embed_labels(ranking, version=image_embeds.version)
        check_same_version(image_embeds.version, text_embeds.version)
        vision = yield from self._vision(image_embeds.version)
        return ranking.rank(codec.scores(image_embeds.array, text_embeds.array, vision.logit_scale))

    def embed_images_versioned(self, images: object) -> Flow[tuple[Embeds, bool]]:
        """Embed images to float32 [n, d], with their version; also tells whether a single image was given."""
        if not self._scores_here:
            encoded, single = yield from self._encode(images)
            return Embeds(*(yield from infer_versioned(codec.embed_images_call(encoded)))), single
        vision = yield from self._vision()
        several, single = as_images(images)
        pixels = yield from work(
            lambda request: preprocess_images(several, vision.settings, self._fetch(request))
        )
        return (yield from self._embed_pixels(pixels, vision)), single

    def _embed_pixels_group(self, group: Group[Any]) -> Flow[list[Embeds | TritonClipError]]:
        """Embed each image of a group, preprocessed here: float32 [1, d]."""
        vision = yield from self._vision()

        def send(items: Sequence[tuple[int, npt.NDArray[np.uint8]]]) -> Flow[list[Embeds]]:
            embeds = yield from self._embed_pixels(_stack([one for _, one in items]), vision)
            return [Embeds(row[np.newaxis], embeds.version) for row in embeds.array]

        return (
            yield from _answer_group(
                group,
                lambda image, index, request: preprocess_image(
                    image, index, vision.settings, self._fetch(request)
                ),
                send,
            )
        )

    def _embed_pixels(self, pixels: npt.NDArray[np.uint8], vision: info.VisionInfo) -> Flow[Embeds]:
        """Embed pixels made as `vision` says: float32 [n, d]."""
        embeds = Embeds(*(yield from infer_versioned(codec.embed_pixels_call(pixels))))
        now = yield from self._vision(embeds.version)
        if now.settings != vision.settings:
            raise ServerUnavailableError(CHANGED, model=wire.PIXEL_EMBEDDING.name)
        return embeds


def _model_ready(model: wire.Model) -> Flow[bool]:
    return (yield from ask(lambda transport, request: transport.model_ready(model, request), bool))


def _parameters(model: wire.Model) -> Flow[dict[str, str]]:
    return (
        yield from ask(lambda transport, request: transport.model_parameters(model, request), dict[str, str])
    )


def _send_texts(items: Sequence[tuple[int, str]]) -> Flow[Array]:
    """Checked texts with the caller's indices to float32 [m, d]."""
    indices, texts = [index for index, _ in items], [text for _, text in items]
    return (yield from _embed_texts(texts, indices)).array


def _embed_texts(texts: list[str], indices: Sequence[int] | None = None) -> Flow[Embeds]:
    """Checked texts, and the caller's indices of them, to float32 [m, d]."""
    (embeds, counts), version = yield from infer_versioned(codec.embed_texts_call(texts))
    note_counts(counts, texts, kind="text", indices=indices)
    return Embeds(embeds, version)


def check_same_version(one: str, other: str) -> None:
    """Refuse to compare embeddings of two versions, which may be two checkpoints."""
    if one != other:
        raise ServerUnavailableError(CHANGED)


def _is_about_labels(error: TritonClipError) -> bool:
    """Return True if the server rejects the labels, which all requests of a run share."""
    text = error.message
    return (
        isinstance(error, InvalidInputError) and not text.startswith("image") and bool(_LABELS.search(text))
    )


def _stack(pixels: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    if len({one.shape for one in pixels}) > 1:
        raise InvalidInputError("the images differ in size, and this checkpoint crops none")
    return np.stack(pixels)


def _answer_group(
    group: Group[Any],
    prepare: Callable[[Any, int, Request], E],
    send: Callable[[Sequence[tuple[int, E]]], Flow[Iterable[R]]],
    ends_run: Callable[[TritonClipError], bool] = lambda error: False,
) -> Flow[list[R | TritonClipError]]:
    """Prepare a group's inputs and send them in one request; return an error for each bad one.

    Args:
        group: The inputs.
        prepare: Makes what is sent of one input and its index.
        send: Sends prepared inputs.
        ends_run: Whether an error is about the whole run; such an error is raised.
    """

    def attempt(value: Any, index: int, request: Request) -> E | TritonClipError:
        try:
            return prepare(value, index, request)
        except TritonClipError as error:
            return error

    prepared = yield from work(
        lambda request: map_images(lambda value, index: attempt(value, index, request), group)
    )
    good = [
        (index, one)
        for (index, _), one in zip(group, prepared, strict=True)
        if not isinstance(one, TritonClipError)
    ]
    answers = iter((yield from _each_alone(good, send, ends_run)) if good else ())
    return [one if isinstance(one, TritonClipError) else next(answers) for one in prepared]


def _each_alone(
    items: Sequence[tuple[int, E]],
    send: Callable[[Sequence[tuple[int, E]]], Flow[Iterable[R]]],
    ends_run: Callable[[TritonClipError], bool],
) -> Flow[list[R | TritonClipError]]:
    """Send all at once; if that fails, send each half, so that only the bad inputs fail."""
    try:
        return list((yield from send(items)))
    except (InvalidInputError, InferenceError) as error:
        if ends_run(error):
            raise
        if len(items) == 1:
            # The server's index is that in the request; the caller knows another one.
            error.message = _ALONE.sub(rf"\1 {items[0][0]}", error.message)
            return [error]
    middle = len(items) // 2
    first = yield from _each_alone(items[:middle], send, ends_run)
    return first + (yield from _each_alone(items[middle:], send, ends_run))
