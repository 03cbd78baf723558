"""Triton model `image_preprocess`: encoded images to pixel values, decoded in a pool of threads."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from clip_groups import Elements, Outputs, Parameters, RequestError, element, read_elements
from clip_images import ImageDecoder, ImageError, ImageSettings
from clip_responder import Responder


class TritonPythonModel:
    """Inputs, outputs and parameters stand in `config.pbtxt`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the checkpoint's image settings and starts the threads."""
        self._responder = Responder(pb_utils, args)
        parameters = Parameters(json.loads(args["model_config"]))
        settings = json.loads((Path(__file__).parent / "processor.json").read_text(encoding="utf-8"))
        self._max_images = parameters.integer("max_images", minimum=1)
        self._max_request_bytes = parameters.integer("max_request_bytes", minimum=1)
        self._decoder = ImageDecoder(
            ImageSettings.from_dict(settings),
            parameters.text("image_formats").split(","),
            parameters.integer("max_image_pixels", minimum=1),
        )
        threads = parameters.integer("threads") or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests of a dynamic batch; a bad one alone gets an error."""
        return self._responder.answer(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _parse(self, request: Any) -> Elements:
        tensor = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        return read_elements("image", tensor, max_count=self._max_images, max_bytes=self._max_request_bytes)

    def _run(self, groups: list[Elements]) -> list[Outputs | Exception]:
        images = [image for group in groups for image in group.items]
        decoded = self._pool.map(self._decode, images)
        return [self._join(group, [next(decoded) for _ in group.items]) for group in groups]

    def _decode(self, encoded: bytes) -> np.ndarray | Exception:
        try:
            return self._decoder.decode(encoded)
        except Exception as error:
            return error

    def _join(self, group: Elements, decoded: list[np.ndarray | Exception]) -> Outputs | Exception:
        for position, image in enumerate(decoded):
            if isinstance(image, ImageError):
                return RequestError(f"{element('image', position, group.shape)} {image}")
            if isinstance(image, Exception):
                return image
        pixels = np.stack(decoded)  # type: ignore[arg-type]
        return {"pixel_values": pixels.reshape(*group.shape, *pixels.shape[1:])}
