"""Triton model `vision_encoder`: pixel values to unit-norm image embeddings."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

# Idle OpenMP threads must sleep: spinning, they would keep cores from decoding and from the text encoder.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from clip_common.cpu import cpu_has_bfloat16
from clip_common.groups import Outcome, RequestError, check_count, check_finite, split_rows
from clip_common.metrics import MetricFactory, publish_model_info
from clip_common.pace import Pace
from clip_common.parameters import Parameters
from clip_common.responder import Responder
from clip_common.times import Times
from clip_common.tower import set_up_torch
from clip_common.version import check_version
from clip_encoder import DirectEncoder, Encoder, GraphEncoder, checked_graphs
from clip_vision import VisionModel, load_vision_model


class Images(NamedTuple):
    """The pixel values of a request."""

    pixels: np.ndarray
    """uint8 [rows, images per row, 3, size, size]."""
    times: Times
    """Arrival time and limits of the request."""

    @property
    def size(self) -> int:
        """Number of images, over all rows."""
        return self.pixels.shape[0] * self.pixels.shape[1]


class TritonPythonModel:
    """`config.pbtxt` describes inputs, outputs and parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tower, set its precision, compile or capture it, and warm it up."""
        metrics = MetricFactory(pb_utils, args)
        self._responder = Responder(pb_utils, metrics, unit="images")
        self._pace = Pace()
        parameters = Parameters(json.loads(args["model_config"]))
        self._max_images = parameters.integer("max_images", minimum=1)
        directory = Path(__file__).parent
        check_version(directory, parameters)
        device, dtype = set_up_torch(args, parameters, exact_on_cpu=False, int8=True)
        model = load_vision_model(directory)
        if dtype == torch.int8:
            from clip_int8 import quantize

            quantize(model, directory)
        else:
            model.set_precision(dtype)
        self._size: int = model.grid * model.patch
        if device.type == "cuda":
            max_bucket = parameters.integer("max_bucket", minimum=1)
            self._encoder, execution, dtype = _build_gpu_encoder(directory, device, dtype, max_bucket)
        else:
            self._encoder, execution = _build_encoder(model, device, dtype, directory, parameters)
        blank = np.zeros((1, 3, self._size, self._size), np.uint8)
        check_finite("image", self._encoder.encode([blank]), blank.shape)
        precision = str(dtype).removeprefix("torch.")
        publish_model_info(metrics, pb_utils.Logger, directory, precision=precision, execution=execution)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to all requests of a dynamic batch; an invalid one receives an error."""
        return self._responder.respond(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Publish the remaining metrics."""
        self._responder.close()

    def _parse(self, request: Any) -> Images:
        times = self._responder.check_times(request)
        pixels = pb_utils.get_input_tensor_by_name(request, "pixel_values").as_numpy()
        check_count("image", pixels.shape, self._max_images)
        if pixels.shape[2:] != (3, self._size, self._size):
            raise RequestError(
                f"pixel_values have shape {list(pixels.shape)}; "
                f"this model takes [rows, images, 3, {self._size}, {self._size}]"
            )
        return Images(pixels, times)

    def _run(self, groups: list[Images]) -> list[Outcome]:
        return self._pace.run(groups, self._encode)

    def _encode(self, groups: list[Images]) -> list[Outcome]:
        images = [group.pixels.reshape(-1, *group.pixels.shape[2:]) for group in groups]
        embeds = self._encoder.encode(images)
        check_finite("image", embeds, groups[0].pixels.shape)
        return [
            {"image_embeds": part.reshape(*group.pixels.shape[:2], -1)}
            for group, part in zip(groups, split_rows(embeds, [group.size for group in groups]), strict=True)
        ]


def _build_gpu_encoder(
    directory: Path, device: torch.device, dtype: torch.dtype, max_bucket: int
) -> tuple[Encoder, str, torch.dtype]:
    """Return an encoder on a GPU, the name of its execution, and its precision."""

    def load(precision: torch.dtype) -> VisionModel:
        model = load_vision_model(directory)
        model.set_precision(precision)
        return model.to(device)

    exact = load(torch.float32)
    side: int = exact.grid * exact.patch
    try:
        encoder, dtype = checked_graphs(
            dtype,
            lambda precision: GraphEncoder(load(precision), device, max_bucket, side),
            DirectEncoder(exact, device, max_bucket),
            side,
            pb_utils.Logger.log_warn,
        )
    except RuntimeError as error:
        pb_utils.Logger.log_warn(f"cannot capture CUDA graphs, running without them: {error}")
        return DirectEncoder(load(dtype), device, max_bucket), "eager", dtype
    return encoder, "cuda_graphs", dtype


def _build_encoder(
    model: VisionModel, device: torch.device, dtype: torch.dtype, directory: Path, parameters: Parameters
) -> tuple[Encoder, str]:
    """Return the fastest encoder that works on this CPU, and the name of its execution."""
    max_bucket = parameters.integer("max_bucket", minimum=1)
    wanted = parameters.choice("compile", ("auto", "on", "off"))
    if dtype == torch.int8:
        from clip_int8 import IMAGES_PER_THREAD

        max_bucket = min(max_bucket, IMAGES_PER_THREAD * torch.get_num_threads())
        if wanted == "on":
            pb_utils.Logger.log_warn("the vision tower in int8 cannot be compiled, running it uncompiled")
    elif wanted == "on" or (wanted == "auto" and _compiling_pays(model)):
        from clip_compile import CompileError, load_or_compile

        try:
            return DirectEncoder(
                load_or_compile(model, directory, max_bucket), device, max_bucket
            ), "compiled"
        except CompileError as error:
            pb_utils.Logger.log_warn(f"cannot compile the vision tower, running it uncompiled: {error}")
    return DirectEncoder(model, device, max_bucket), "eager"


def _compiling_pays(model: VisionModel) -> bool:
    """Return whether the compiled tower is faster: packed bfloat16 weights are, float32 weights are not."""
    return model.patch_embedding.weight.dtype == torch.bfloat16 and cpu_has_bfloat16()
