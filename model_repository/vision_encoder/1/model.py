"""Triton model `vision_encoder`: pixel values to unit-norm image embeddings, a dynamic batch in one go."""

import clip_openmp  # noqa: F401  Before torch is.

# isort: split
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from clip_groups import Outputs, Parameters, RequestError, check_count, split_rows
from clip_info import publish_model_info
from clip_responder import Responder
from clip_tower import set_up_torch
from clip_vision import ImageEncoder, load_vision_model


class TritonPythonModel:
    """Inputs, outputs and parameters stand in `config.pbtxt`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tower, casts it, and encodes once at the smallest and at the largest bucket."""
        self._responder = Responder(pb_utils, args)
        parameters = Parameters(json.loads(args["model_config"]))
        directory = Path(__file__).parent
        device, dtype = set_up_torch(args, parameters)
        self._max_images = parameters.integer("max_images", minimum=1)
        max_bucket = parameters.integer("max_bucket", minimum=1)
        model = load_vision_model(directory)
        model.set_precision(dtype)
        self._size: int = model.grid * model.patch
        self._encoder = ImageEncoder(model.to(device), device, max_bucket)
        for count in (1, max_bucket):
            self._encoder.encode(np.zeros((count, 3, self._size, self._size), np.uint8))
        self._info = publish_model_info(
            pb_utils, args, directory, precision=str(dtype).removeprefix("torch.")
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests of a dynamic batch; a bad one alone gets an error."""
        return self._responder.answer(requests, self._parse, self._run)

    def _parse(self, request: Any) -> np.ndarray:
        pixels = pb_utils.get_input_tensor_by_name(request, "pixel_values").as_numpy()
        check_count("image", pixels.shape, self._max_images)
        if pixels.shape[2:] != (3, self._size, self._size):
            raise RequestError(
                f"pixel_values have shape {list(pixels.shape)}; "
                f"this model takes [rows, images, 3, {self._size}, {self._size}]"
            )
        return pixels

    def _run(self, groups: list[np.ndarray]) -> list[Outputs | Exception]:
        images = [group.reshape(-1, *group.shape[2:]) for group in groups]
        embeds = self._encoder.encode(np.concatenate(images))
        parts = split_rows(embeds, [len(part) for part in images])
        return [
            {"image_embeds": part.reshape(*group.shape[:2], -1)}
            for group, part in zip(groups, parts, strict=True)
        ]
