"""The synchronous client; it runs each method's flow in the calling thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
import tenacity

from tritonclip import _bulk
from tritonclip._answers.predictions import PredictionBatch, Predictions
from tritonclip._base import BaseClient
from tritonclip._calls import codec, status
from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE
from tritonclip._calls.flows import Group
from tritonclip._calls.request import Request, RequestOptions
from tritonclip._calls.steps import Flow, Work
from tritonclip._calls.timings import NO_TIMER
from tritonclip._calls.token_counts import LabelReport
from tritonclip._calls.wire import Question
from tritonclip._isolate import Attempt, answer_or_isolate
from tritonclip._messages.callers import from_here
from tritonclip._messages.keywords import suggests_keywords
from tritonclip._retry import stopped_by
from tritonclip._transport.choice import open_transport
from tritonclip._transport.tracing import traced
from tritonclip._types import Health, ImageInput, ModelInfo, ModelStatistics
from tritonclip.errors import TritonClipError

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
R = TypeVar("R")
ImageT = TypeVar("ImageT", bound=ImageInput)
Array = npt.NDArray[np.float32]
Labels = list[str] | tuple[str, ...] | str | None


@suggests_keywords(RequestOptions, _bulk.BulkOptions)
class Client(BaseClient):
    """A client of one server, or of several that serve the same models.

    It is safe for threads; make one and share it. It connects at its first call. Close it, or use it in a
    `with` block. A forked process and a pickled copy open their own connections.

    The methods that call the server take `RequestOptions` by keyword: `timeout_s`, `request_id`, `priority`,
    `headers`. An unknown argument raises a TypeError that suggests one. All other errors are TritonClipError:

    - InvalidInputError: fix the input.
    - ServerUnavailableError: retry.
    - DeadlineExceededError: allow more time.
    - ModelNotReadyError: fix the deployment.
    - AccessDeniedError: fix the key.
    - InferenceError: report it.
    """

    def _open(self) -> None:
        super()._open()
        self._transport = open_transport(self._settings)

    @overload
    def classify(
        self,
        images: list[ImageT] | tuple[ImageT, ...],
        labels: Labels = None,
        *,
        hypothesis_template: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        **options: Unpack[RequestOptions],
    ) -> PredictionBatch: ...

    @overload
    def classify(
        self,
        images: ImageInput,
        labels: Labels = None,
        *,
        hypothesis_template: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        **options: Unpack[RequestOptions],
    ) -> Predictions: ...

    def classify(
        self,
        images: ImageInput | list[ImageT] | tuple[ImageT, ...],
        labels: Labels = None,
        *,
        hypothesis_template: str = DEFAULT_HYPOTHESIS_TEMPLATE,
        top_k: int | None = None,
        threshold: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Predictions | PredictionBatch:
        """Rank candidate labels for one image or several, in one request.

        Args:
            images: One `ImageInput` (path, URL, bytes, file object, PIL image, array), or a list or
                tuple of them.
            labels: Candidate labels. A list is never split. A string that is a JSON array is that array;
                any other string is split at its commas. None: `DEFAULT_LABELS`, with a `LabelWarning`.
            hypothesis_template: Sentence with one `{}` for the label; '{}' for labels that are sentences.
            top_k: Keep only this many labels per image, those with the highest scores.
            threshold: Keep only scores of at least this much, 0 to 1.
            **options: See `RequestOptions`.

        Returns:
            `[{"score": float, "label": str}, ...]`, highest score first; a list of these for a list of
            images. The scores are a softmax over all labels, so they sum to 1 before `top_k` and `threshold`.
        """
        request = self._start(options)
        ranking = codec.Ranking.check(
            labels, hypothesis_template=hypothesis_template, top_k=top_k, threshold=threshold
        )
        return self._run(self._flows.classify(images, ranking), request)

    def embed_images(
        self, images: ImageInput | list[ImageT] | tuple[ImageT, ...], **options: Unpack[RequestOptions]
    ) -> Array:
        """Embed images, in one request.

        Args:
            images: See `classify`.
            **options: See `RequestOptions`.

        Returns:
            float32 [n, d], unit L2 norm; for a single image [d].
        """
        embeds, single = self._run(self._flows.embed_images(images), self._start(options))
        return embeds[0] if single else embeds

    def embed_texts(
        self, texts: str | list[str] | tuple[str, ...], **options: Unpack[RequestOptions]
    ) -> Array:
        """Embed texts as they are, without a template, in one request.

        Returns:
            float32 [m, d], unit L2 norm; for a single text [d].
        """
        embeds, single = self._run(self._flows.embed_texts(texts), self._start(options))
        return embeds[0] if single else embeds

    def similarity(
        self,
        images: ImageInput | list[ImageT] | tuple[ImageT, ...],
        texts: str | list[str] | tuple[str, ...],
        **options: Unpack[RequestOptions],
    ) -> Array:
        """Compute the cosine of every image with every text.

        It sends one request for the texts and one for the images, within one deadline, and computes the dot
        product of the unit embeddings in the client.

        Returns:
            float32 [n, m], -1 to 1; a single image or text gives n = 1 or m = 1.
        """
        return self._run(self._flows.similarity(images, texts), self._start(options))

    @overload
    def classify_many(
        self,
        images: Iterable[ImageInput] | str | os.PathLike[str],
        labels: Labels = None,
        *,
        hypothesis_template: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        on_error: Literal["raise"] = ...,
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Predictions]: ...

    @overload
    def classify_many(
        self,
        images: Iterable[ImageInput] | str | os.PathLike[str],
        labels: Labels = None,
        *,
        hypothesis_template: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        on_error: _bulk.OnError,
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Predictions | TritonClipError]: ...

    def classify_many(
        self,
        images: Iterable[ImageInput] | str | os.PathLike[str],
        labels: Labels = None,
        *,
        hypothesis_template: str = DEFAULT_HYPOTHESIS_TEMPLATE,
        top_k: int | None = None,
        threshold: float | None = None,
        on_error: _bulk.OnError = "raise",
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Any]:
        """Rank candidate labels for any number of images, with several requests in flight.

        Args:
            images: An iterable of `ImageInput`, consumed lazily; or a directory, a file or a pattern, see
                `find_images`.
            labels: See `classify`.
            hypothesis_template: See `classify`.
            top_k: See `classify`.
            threshold: See `classify`.
            on_error: `raise` ends the run at the first bad image; `return` yields a TritonClipError in its
                place and goes on. An outage longer than `patience_s` and an invalid label end the run in
                either case.
            **options: See `BulkOptions`.

        Returns:
            For each image, in order, the result of `classify`. The run starts when the first result is
            requested. Memory does not grow with the number of images.
        """
        plan = _bulk.check_plan(_bulk.IMAGES_PER_REQUEST, on_error=on_error, **options)
        ranking = codec.Ranking.check(
            labels, hypothesis_template=hypothesis_template, top_k=top_k, threshold=threshold
        )
        report = LabelReport(ranking.labels)
        return self._many(
            _bulk.check_images_input(images),
            plan,
            lambda group: self._flows.classify_group(group, ranking, report),
        )

    @overload
    def embed_images_many(
        self,
        images: Iterable[ImageInput] | str | os.PathLike[str],
        *,
        on_error: Literal["raise"] = ...,
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Array]: ...

    @overload
    def embed_images_many(
        self,
        images: Iterable[ImageInput] | str | os.PathLike[str],
        *,
        on_error: _bulk.OnError,
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Array | TritonClipError]: ...

    def embed_images_many(
        self,
        images: Iterable[ImageInput] | str | os.PathLike[str],
        *,
        on_error: _bulk.OnError = "raise",
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Any]:
        """Embed any number of images, with several requests in flight; see `classify_many`.

        Returns:
            For each image, in order, float32 [d], unit L2 norm.
        """
        plan = _bulk.check_plan(_bulk.IMAGES_PER_REQUEST, on_error=on_error, **options)
        return self._many(_bulk.check_images_input(images), plan, self._flows.embed_images_group)

    @overload
    def embed_texts_many(
        self,
        texts: Iterable[str],
        *,
        on_error: Literal["raise"] = ...,
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Array]: ...

    @overload
    def embed_texts_many(
        self,
        texts: Iterable[str],
        *,
        on_error: _bulk.OnError,
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Array | TritonClipError]: ...

    def embed_texts_many(
        self,
        texts: Iterable[str],
        *,
        on_error: _bulk.OnError = "raise",
        **options: Unpack[_bulk.BulkOptions],
    ) -> Iterator[Any]:
        """Embed any number of texts, with several requests in flight; see `classify_many`.

        Returns:
            For each text, in order, float32 [d], unit L2 norm.
        """
        plan = _bulk.check_plan(_bulk.TEXTS_PER_REQUEST, on_error=on_error, **options)
        texts = _bulk.check_texts_input(texts)
        return self._many(texts, plan, self._flows.embed_texts_group, _bulk.TEXTS)

    def health(self, *, deep: bool = False, **options: Unpack[RequestOptions]) -> Health:
        """Ask for the state of the server and of each public model, within one deadline.

        Args:
            deep: Classify a tiny image too, because Triton reports a model as ready even if its process is
                dead or stuck.
            **options: See `RequestOptions`.

        Raises:
            ServerUnavailableError: No server answers.
        """
        return self._run(status.health(deep=deep), self._start(options))

    def models(self, **options: Unpack[RequestOptions]) -> list[ModelInfo]:
        """Ask for the weights of each public model, within one deadline.

        Raises:
            ModelNotReadyError: A model was not prepared by `tritonclip-server prepare`.
        """
        return self._run(status.models(), self._start(options))

    def statistics(self, **options: Unpack[RequestOptions]) -> list[ModelStatistics]:
        """Ask for statistics of each model since the server started, including the steps of ensembles."""
        return self._run(status.statistics(), self._start(options))

    def close(self) -> None:
        """Close all connections; the client cannot be used afterwards. Closing it again does nothing."""
        self._closed = True
        self._flows.fetcher.close()
        self._transport.close()

    def __enter__(self) -> Client:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def _run(self, flow: Flow[T], request: Request) -> T:
        """Run the steps of a flow one after another, and return its result."""
        result: Any = None
        error: Exception | None = None
        timer = request.timer
        try:
            while True:
                step = flow.send(result) if error is None else flow.throw(error)
                result, error = None, None
                try:
                    if isinstance(step, Question):
                        with timer or NO_TIMER:
                            result = self._transport.ask(step, request)
                    elif isinstance(step, Work):
                        result = step.run(request)
                    else:
                        call = step.with_timings() if timer else step
                        with traced(call.model, request, self._settings.endpoint) as sent, timer or NO_TIMER:
                            result = self._transport.infer(call, sent)
                        if timer:
                            timer.add(result, call.model)
                except TritonClipError as caught:
                    error = caught
        except StopIteration as end:
            if timer:
                timer.finish(end.value)
            return end.value  # type: ignore[no-any-return]
        except TritonClipError as failure:
            self._name_server(failure)
            raise

    def _many(
        self,
        inputs: Iterable[Any],
        plan: _bulk.Plan,
        answer: Callable[[Group[Any]], Flow[list[R | TritonClipError]]],
        kind: _bulk.InputKind = _bulk.IMAGES,
    ) -> Iterator[R | TritonClipError]:
        """Check the options now, and run when the first result is requested."""
        self._start(plan.request)
        return self._run_many(inputs, plan, answer, kind)

    def _run_many(
        self,
        inputs: Iterable[Any],
        plan: _bulk.Plan,
        answer: Callable[[Group[Any]], Flow[list[R | TritonClipError]]],
        kind: _bulk.InputKind,
    ) -> Iterator[R | TritonClipError]:
        counts: _bulk.RunCounts[R] = _bulk.RunCounts(plan)
        ended = threading.Event()

        def send(attempt: Attempt) -> list[R | TritonClipError]:
            policy = stopped_by(ended, counts.retry_policy(patient=attempt.patient))
            results: list[R | TritonClipError] = tenacity.Retrying(**policy)(
                lambda: self._run(answer(attempt.group), self._start(plan.request))
            )
            counts.note_answer()
            return results

        def answer_group(group: Group[Any]) -> list[R | TritonClipError]:
            attempts = answer_or_isolate(group, kind.noun, kind.harmless)
            attempt = next(attempts)
            try:
                while True:
                    try:
                        results = send(attempt)
                    except TritonClipError as error:
                        if ended.is_set():
                            raise
                        attempt = attempts.throw(error)
                    else:
                        attempt = attempts.send(results)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

        groups = _bulk.group_inputs(inputs, plan.batch_size, kind.size_of)
        yield from _bulk.run_ordered(groups, from_here(answer_group), plan, counts, ended)
