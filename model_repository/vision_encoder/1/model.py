"""Triton model `vision_encoder`: pixel values to unit-norm image embeddings, a dynamic batch in one go."""

import clip_common.cpu  # noqa: F401  Before torch is.

# isort: split
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from clip_common.forecast import ProgressWriter, progress_file
from clip_common.groups import Outputs, Parameters, RequestError, check_count, split_rows
from clip_common.metrics import publish_model_info
from clip_common.responder import Responder
from clip_common.times import Times, now_us
from clip_common.tower import cpu_has_bfloat16, set_up_torch
from clip_encoder import Encoder, GraphEncoder, HostEncoder
from clip_vision import VisionModel, load_vision_model


class Pixels(NamedTuple):
    """The images of a request: uint8 [rows, images, 3, size, size]."""

    array: np.ndarray
    times: Times


class TritonPythonModel:
    """Inputs, outputs and parameters stand in `config.pbtxt`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tower, casts it, compiles or captures it, and encodes once."""
        self._responder = Responder(pb_utils, args, unit="images")
        parameters = Parameters(json.loads(args["model_config"]))
        directory = Path(__file__).parent
        device, dtype = set_up_torch(args, parameters, exact_on_cpu=False)
        self._max_images = parameters.integer("max_images", minimum=1)
        model = load_vision_model(directory)
        model.set_precision(dtype)
        self._size: int = model.grid * model.patch
        self._encoder, execution = _build_encoder(model.to(device), device, directory, parameters)
        self._encoder.encode([np.zeros((1, 3, self._size, self._size), np.uint8)])
        path = progress_file(os.getppid(), args["model_version"], args["model_instance_name"])
        self._progress = ProgressWriter(path)
        precision = str(dtype).removeprefix("torch.")
        self._info = publish_model_info(pb_utils, args, directory, precision=precision, execution=execution)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests of a dynamic batch; a bad one alone gets an error."""
        return self._responder.answer(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Withdraws the progress file."""
        self._progress.close()
        self._responder.close()

    def _parse(self, request: Any) -> Pixels:
        times = self._responder.times(request)
        pixels = pb_utils.get_input_tensor_by_name(request, "pixel_values").as_numpy()
        check_count("image", pixels.shape, self._max_images)
        if pixels.shape[2:] != (3, self._size, self._size):
            raise RequestError(
                f"pixel_values have shape {list(pixels.shape)}; "
                f"this model takes [rows, images, 3, {self._size}, {self._size}]"
            )
        return Pixels(pixels, times)

    def _run(self, groups: list[Pixels]) -> list[Outputs | Exception]:
        images = [group.array.reshape(-1, *group.array.shape[2:]) for group in groups]
        counts = [len(part) for part in images]
        self._progress.begin(max(group.times.arrival_us for group in groups), sum(counts), now_us())
        try:
            embeds = self._encoder.encode(images)
        finally:
            self._progress.end(now_us())
        return [
            {"image_embeds": part.reshape(*group.array.shape[:2], -1)}
            for group, part in zip(groups, split_rows(embeds, counts), strict=True)
        ]


def _build_encoder(
    model: VisionModel, device: torch.device, directory: Path, parameters: Parameters
) -> tuple[Encoder, str]:
    """The fastest way to run the tower that works here, and its name."""
    max_bucket = parameters.integer("max_bucket", minimum=1)
    wanted = parameters.choice("compile", ("auto", "on", "off"))
    if device.type == "cuda":
        try:
            return GraphEncoder(model, device, max_bucket, model.grid * model.patch), "cuda_graphs"
        except RuntimeError as error:
            pb_utils.Logger.log_warn(f"no CUDA graphs, each kernel is launched by itself: {error}")
    elif wanted == "on" or (wanted == "auto" and _bfloat16_is_fast(model)):
        from clip_compile import CompileError, load_or_compile

        try:
            return HostEncoder(load_or_compile(model, directory, max_bucket), device, max_bucket), "compiled"
        except CompileError as error:
            pb_utils.Logger.log_warn(f"the vision tower is not compiled, but served as it is: {error}")
    return HostEncoder(model, device, max_bucket), "eager"


def _bfloat16_is_fast(model: VisionModel) -> bool:
    """Where compiling pays: packed bfloat16 weights do, while in float32 the compiled tower is no faster."""
    return model.patch_embedding.weight.dtype == torch.bfloat16 and cpu_has_bfloat16()
