"""Zero-shot classification with a fixed label set, whose prompts are embedded once and scored in the client.

It suits large or long-lived label sets, such as ImageNet's 1,000 classes with 80 templates. For labels that
change with each request use `Client.classify`.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021),
section 3.1.4, for the averaging of templates.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from tritonclip._answers.predictions import PredictionBatch, Predictions, answer
from tritonclip._bulk import BulkOptions, OnError
from tritonclip._calls.checks import (
    DEFAULT_HYPOTHESIS_TEMPLATE,
    check_labels,
    check_template,
    check_threshold,
    check_top_k,
    label_warning,
)
from tritonclip._calls.codec import rank, scores
from tritonclip._calls.flows import check_same_version
from tritonclip._calls.identity import is_made_by, shown, warn_without_identity
from tritonclip._calls.label_prompts import LabelPrompts
from tritonclip._calls.request import RequestOptions
from tritonclip._calls.token_counts import report_label_warning
from tritonclip._messages.keywords import suggests_keywords
from tritonclip._messages.text import shown as quoted
from tritonclip._pipeline import (
    CallOptions,
    CandidateLabels,
    ZeroShotImageClassificationPipeline,
    classify_inputs,
    without_none,
)
from tritonclip._types import ImageInput, ModelInfo
from tritonclip.client import Client, ImageT
from tritonclip.errors import InvalidInputError, TritonClipError

if TYPE_CHECKING:
    from typing_extensions import Unpack

Array = npt.NDArray[np.float32]
MAX_REPR_LABELS, MAX_REPR_CHARS = 3, 30


@suggests_keywords(CallOptions, BulkOptions)
class ZeroShotClassifier:
    """A classifier with a fixed set of labels, for any number of images; safe for threads.

    If the server changes to another checkpoint, the labels are embedded again.

    Args:
        client: Embeds prompts and images.
        labels: Candidate labels; see `Client.classify`.
        templates: Sentences with one `{}` for the label. A label's embedding is the mean of its prompts'
            embeddings, scaled to L2 norm 1.

    Attributes:
        labels: The labels, in their order.
        templates: The templates.
        text_embeds: float32 [m, d], unit L2 norm, one row per label.

    Raises:
        InvalidInputError: A label or template is malformed.
        TritonClipError: The server could not embed the prompts; see `Client`.
    """

    def __init__(
        self,
        client: Client,
        labels: list[str] | tuple[str, ...] | str | None = None,
        *,
        templates: str | Sequence[str] = DEFAULT_HYPOTHESIS_TEMPLATE,
    ) -> None:
        given = [templates] if isinstance(templates, str) else list(templates)
        if not given:
            raise InvalidInputError("templates: the list is empty; give at least one template")
        self.labels = tuple(check_labels(labels))
        if warning := label_warning(labels, self.labels):
            report_label_warning(warning)
        self.templates = tuple(check_template(template) for template in given)
        self._client = client
        self._embed()

    @overload
    def __call__(
        self,
        image: list[ImageT] | tuple[ImageT, ...],
        candidate_labels: CandidateLabels = None,
        **options: Unpack[CallOptions],
    ) -> PredictionBatch: ...

    @overload
    def __call__(
        self, image: ImageInput, candidate_labels: CandidateLabels = None, **options: Unpack[CallOptions]
    ) -> Predictions: ...

    @overload
    def __call__(
        self, image: Any = None, candidate_labels: CandidateLabels = None, **options: Unpack[CallOptions]
    ) -> Any: ...

    def __call__(
        self, image: Any = None, candidate_labels: CandidateLabels = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Rank the labels, with the signature of transformers' zero-shot-image-classification pipeline.

        Args:
            image: One `ImageInput`, a list or tuple, or a generator, an iterator or a dataset of them.
            candidate_labels: Labels for this call only, ranked on the server; None: the fixed ones.
            **options: See `CallOptions`. `hypothesis_template` is for `candidate_labels`; the fixed labels
                have their own templates.

        Returns:
            `[{"score": float, "label": str}, ...]`, highest score first; a list of these for a list, and an
            iterator over them for a generator, an iterator or a dataset, which is read lazily.
        """
        if candidate_labels is not None:
            return ZeroShotImageClassificationPipeline(self._client)(image, candidate_labels, **options)
        given = without_none(options)
        given.pop("hypothesis_template", None)
        return classify_inputs(image, self._classify, self.classify_many, given)

    def classify_many(
        self,
        images: Iterable[ImageInput] | str | os.PathLike[str],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        on_error: OnError = "raise",
        **options: Unpack[BulkOptions],
    ) -> Iterator[Any]:
        """Rank the fixed labels for any number of images; see `Client.classify_many`.

        The server's checkpoint must stay the same for the whole run.
        """
        keep, floor = check_top_k(top_k), check_threshold(threshold)
        served = _zero_shot_model(self._client)
        if (served.identity, served.sha256) != (self._model.identity, self._model.sha256):
            self._embed()
        embeds = self._client.embed_images_many(images, on_error=on_error, **options)
        return (
            one
            if isinstance(one, TritonClipError)
            else rank(self.scores(one[np.newaxis]), self.labels, top_k=keep, threshold=floor)[0]
            for one in embeds
        )

    def scores(self, image_embeds: Array) -> Array:
        """Compute the server's softmax over the labels.

        Args:
            image_embeds: float32 [n, d], unit L2 norm.

        Returns:
            float32 [n, m], each row summing to 1.
        """
        return scores(image_embeds, self.text_embeds, self._model.logit_scale)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write labels, templates and embeddings to an `.npz` file, for `load`."""
        with open(path, "wb") as file:
            np.savez(
                file,
                labels_json=np.array(json.dumps(self.labels)),  # an array of texts would cut trailing NULs
                templates_json=np.array(json.dumps(self.templates)),
                text_embeds=self.text_embeds,
                sha256=np.array(self._model.sha256),
                identity=np.array(self._model.identity),
            )

    @classmethod
    def load(cls, client: Client, path: str | os.PathLike[str]) -> ZeroShotClassifier:
        """Load a saved classifier without embedding anything again.

        Raises:
            InvalidInputError: The file is not a saved classifier, or it was made with another identity than
                the server's.
        """
        name = repr(os.fspath(path))
        try:
            with np.load(path, allow_pickle=False) as file:
                text_embeds, sha256 = file["text_embeds"], str(file["sha256"])
                identity = str(file["identity"]) if "identity" in file else ""
                labels, templates = (_read_texts(file, part) for part in ("labels", "templates"))
            if text_embeds.shape[:-1] != (len(labels),) or not np.isfinite(text_embeds).all():
                raise ValueError("its embeddings do not belong to its labels, or are not finite")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InvalidInputError(f"{name} is not a saved classifier: {error}") from error
        model = _zero_shot_model(client)
        if not is_made_by(model, identity=identity, sha256=sha256):
            raise InvalidInputError(
                f"{name} was made with {shown(identity, sha256)}, but the server serves "
                f"{model.checkpoint!r} with {shown(model.identity, model.sha256)}; make the classifier again"
            )
        warn_without_identity(name, identity, model)
        loaded = cls.__new__(cls)
        loaded.labels, loaded.templates = labels, templates
        loaded.text_embeds, loaded._client, loaded._model = text_embeds, client, model
        return loaded

    def __repr__(self) -> str:
        """Return the number of labels and the first ones, the number of templates, and the server."""
        first = ", ".join(quoted(label, MAX_REPR_CHARS) for label in self.labels[:MAX_REPR_LABELS])
        labels = f"{first}, ..." if len(self.labels) > MAX_REPR_LABELS else first
        templates = f"{len(self.templates)} template{'' if len(self.templates) == 1 else 's'}"
        counts = f"{len(self.labels)} labels ({labels}), {templates}"
        return f"<tritonclip.ZeroShotClassifier {counts}, {self._client.endpoint}>"

    def _classify(
        self,
        images: Any,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Predictions | PredictionBatch:
        """Rank the fixed labels for one image or a list, in one request."""
        keep, floor = check_top_k(top_k), check_threshold(threshold)
        flow, request = self._client._flows.embed_images_versioned(images), self._client._start(options)
        embeds, single = self._client._run(flow, request)
        if embeds.version != self._model.version:
            self._embed()
        check_same_version(embeds.version, self._model.version)
        ranked = rank(self.scores(embeds.array), self.labels, top_k=keep, threshold=floor)
        return answer(ranked, images, single=single)

    def _embed(self) -> None:
        """Embed the labels with the checkpoint that is served now."""
        self._model = _zero_shot_model(self._client)
        self.text_embeds = self._embed_labels()

    def _embed_labels(self) -> Array:
        """Average each label's embeddings over the templates: float32 [m, d], unit L2 norm."""
        prompts = LabelPrompts(self.labels, self.templates)
        client = self._client
        return prompts.label_embeds([client._run(one, client._start({})) for one in prompts.requests()])


def _read_texts(file: Any, name: str) -> tuple[str, ...]:
    """Read texts of a saved classifier; earlier versions stored them as an array."""
    if name in file:
        return tuple(file[name].tolist())
    return tuple(json.loads(str(file[f"{name}_json"])))


def _zero_shot_model(client: Client) -> ModelInfo:
    return next(model for model in client.models() if model.name == "clip_zero_shot")
