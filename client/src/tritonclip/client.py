"""The synchronous client: each method builds a call with the codec, sends it, and decodes the answer."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

from tritonclip import _codec, _wire
from tritonclip._base import BaseClient
from tritonclip._checks import DEFAULT_HYPOTHESIS_TEMPLATE
from tritonclip._images import encode_images
from tritonclip._transport import open_transport
from tritonclip._types import Health, ImageInput, ModelInfo, Prediction
from tritonclip.errors import InferenceError

T = TypeVar("T")
ImageT = TypeVar("ImageT", bound=ImageInput)
Array = npt.NDArray[np.float32]


class Client(BaseClient):
    """A client of one server; thread-safe, meant to be made once and shared.

    It connects at its first call. Close it, or use it in a `with` block.

    The methods that call the server raise InvalidInputError (fix the input), ServerUnavailableError (retry),
    DeadlineExceededError (allow more time), ModelNotReadyError (fix the deployment) and InferenceError
    (report); all are TritonClipError.
    """

    def __init__(
        self, url: str | None = None, *, protocol: str | None = None, timeout_s: float | None = None
    ) -> None:
        """See `BaseClient`; connects at the first call."""
        super().__init__(url, protocol=protocol, timeout_s=timeout_s)
        self._transport = open_transport(self._settings)

    @overload
    def classify(
        self,
        images: list[ImageT] | tuple[ImageT, ...],
        labels: list[str] | tuple[str, ...] | str | None = None,
        *,
        hypothesis_template: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        timeout_s: float | None = ...,
        request_id: str = ...,
    ) -> list[list[Prediction]]: ...

    @overload
    def classify(
        self,
        images: ImageInput,
        labels: list[str] | tuple[str, ...] | str | None = None,
        *,
        hypothesis_template: str = ...,
        top_k: int | None = ...,
        threshold: float | None = ...,
        timeout_s: float | None = ...,
        request_id: str = ...,
    ) -> list[Prediction]: ...

    def classify(
        self,
        images: ImageInput | list[ImageT] | tuple[ImageT, ...],
        labels: list[str] | tuple[str, ...] | str | None = None,
        *,
        hypothesis_template: str = DEFAULT_HYPOTHESIS_TEMPLATE,
        top_k: int | None = None,
        threshold: float | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> list[Prediction] | list[list[Prediction]]:
        """Rank candidate labels for one image or several, in one request.

        Args:
            images: One image, or a list or tuple of them: paths, bytes of files, PIL images, uint8 arrays.
            labels: Candidate labels; one string is split at its commas; None: `DEFAULT_LABELS`.
            hypothesis_template: Sentence with one `{}` for the label; '{}' for labels that are sentences.
            top_k: Keep only this many labels an image, the best.
            threshold: Keep only scores of at least this much, 0 to 1.
            timeout_s: Deadline of this call in seconds; None: the client's.
            request_id: A name for this request in the server's log.

        Returns:
            `[{"score": float, "label": str}, ...]`, highest score first; a list of these for a list of
            images. The scores are a softmax over all labels: they sum to 1 before `top_k` and `threshold`.
        """
        encoded, single = encode_images(images)
        call = _codec.classify_call(
            encoded, labels, hypothesis_template=hypothesis_template, top_k=top_k, threshold=threshold
        )
        ranked = self._run(call, self._timeout(timeout_s), request_id)
        return ranked[0] if single else ranked

    def embed_images(
        self,
        images: ImageInput | list[ImageT] | tuple[ImageT, ...],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Array:
        """Embed images, in one request.

        Returns:
            float32 [n, d], unit L2 norm; for a single image [d].
        """
        encoded, single = encode_images(images)
        embeds = self._run(_codec.embed_images_call(encoded), self._timeout(timeout_s), request_id)
        return embeds[0] if single else embeds

    def embed_texts(
        self,
        texts: str | list[str] | tuple[str, ...],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Array:
        """Embed texts as they are, without a template, in one request.

        Returns:
            float32 [m, d], unit L2 norm; for a single text [d].
        """
        call, single = _codec.embed_texts_call(texts)
        embeds = self._run(call, self._timeout(timeout_s), request_id)
        return embeds[0] if single else embeds

    def similarity(
        self,
        images: ImageInput | list[ImageT] | tuple[ImageT, ...],
        texts: str | list[str] | tuple[str, ...],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Array:
        """Cosine of every image with every text.

        Two requests, one for the texts and one for the images, within one deadline; the dot product of the
        unit embeddings is taken here.

        Returns:
            float32 [n, m], -1 to 1; a single image or text gives n = 1 or m = 1.
        """
        encoded, _ = encode_images(images)
        texts_call, _ = _codec.embed_texts_call(texts)
        with self._one_deadline(timeout_s) as rest_s:
            text_embeds = self._run(texts_call, rest_s(), request_id)
            image_embeds = self._run(_codec.embed_images_call(encoded), rest_s(), request_id)
        return _codec.similarity(image_embeds, text_embeds)

    def health(self, *, timeout_s: float | None = None) -> Health:
        """Ask whether the server is live and ready, and each public model, within one deadline.

        Raises:
            ServerUnavailableError: If no server answers: it has no health to tell.
        """
        self._check_open()
        with self._one_deadline(timeout_s) as rest_s:
            live = self._transport.server_live(timeout_s=rest_s())
            ready = self._transport.server_ready(timeout_s=rest_s())
            models = {
                model.name: self._transport.model_ready(model, timeout_s=rest_s())
                for model in _wire.PUBLIC_MODELS
            }
        return Health(live=live, ready=ready, models=models)

    def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """Ask which weights each public model serves, within one deadline.

        Raises:
            ModelNotReadyError: If a model was not prepared by tritonclip's `prepare_weights.py`.
        """
        self._check_open()
        with self._one_deadline(timeout_s) as rest_s:
            return [
                _codec.decode_model_info(model, self._transport.model_parameters(model, timeout_s=rest_s()))
                for model in _wire.PUBLIC_MODELS
            ]

    def close(self) -> None:
        """Close all connections; the client cannot be used after. Calling it again does nothing."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def _run(self, call: _codec.Call[T], timeout_s: float, request_id: str) -> T:
        self._check_open()
        outputs = self._transport.infer(
            call.model, call.inputs, call.outputs, timeout_s=timeout_s, request_id=request_id
        )
        try:
            return call.decode(outputs)
        except InferenceError as error:
            error.endpoint = self.endpoint
            raise
