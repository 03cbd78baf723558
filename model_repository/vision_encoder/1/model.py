"""Triton model `vision_encoder`: pixel values to unit-norm image embeddings."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

from clip_common.cpu import cpu_has_bfloat16
from clip_common.groups import Outcome, RequestError, check_count, check_finite, split_rows
from clip_common.metrics import MetricFactory, Series, publish_model_info
from clip_common.pace import Pace
from clip_common.parameters import Parameters
from clip_common.responder import Responder
from clip_common.times import Times, now_us
from clip_common.torch_setup import torch
from clip_common.tower import set_up_torch
from clip_common.version import check_version
from clip_encoder import DirectEncoder, Encoder, Forward, GraphEncoder, checked_graphs
from clip_vision import VisionModel, load_vision_model

if TYPE_CHECKING:
    from clip_compile import Compilation

CPU = torch.device("cpu")


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
        """Load the tower, set its precision, capture it or have it compiled, and warm it up."""
        self._metrics = MetricFactory(pb_utils, args)
        self._responder = Responder(pb_utils, self._metrics, unit="images")
        self._pace = Pace()
        parameters = Parameters(json.loads(args["model_config"]))
        self._max_images = parameters.integer("max_images", minimum=1)
        self._max_bucket = parameters.integer("max_bucket", minimum=1)
        compiling = parameters.choice("compile", ("auto", "on", "off"))
        self._directory = Path(__file__).parent
        check_version(self._directory, parameters)
        device, dtype = set_up_torch(args, parameters, exact_on_cpu=False, int8=True)
        model = load_vision_model(self._directory)
        self._size: int = model.grid * model.patch
        self._encoder: Encoder
        execution = "eager"
        if device.type == "cuda":
            self._encoder, execution, dtype = _build_gpu_encoder(
                self._directory, device, dtype, self._max_bucket
            )
        else:
            self._set_cpu_precision(model, dtype)
            self._encoder = DirectEncoder(model, CPU, self._max_bucket)
        self._precision = str(dtype).removeprefix("torch.")
        self._info: Series | None = None
        self._compilation: Compilation | None = None
        blank = np.zeros((1, 3, self._size, self._size), np.uint8)
        check_finite("image", self._encoder.encode([blank]), blank.shape)
        if device.type == "cpu" and (compiling == "on" or (compiling == "auto" and _compiling_pays(model))):
            self._compile(model, dtype)
        else:
            self._publish(execution)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to all requests of a dynamic batch; an invalid one receives an error."""
        return self._responder.respond(requests, self._parse, self._run)

    def finalize(self) -> None:
        """End a compilation, and publish the remaining metrics."""
        if self._compilation is not None:
            self._compilation.close()
        self._responder.close()

    def _set_cpu_precision(self, model: VisionModel, dtype: torch.dtype) -> None:
        if dtype != torch.int8:
            model.set_precision(dtype)
            return
        from clip_int8 import IMAGES_PER_THREAD, quantize

        quantize(model, self._directory)
        self._max_bucket = min(self._max_bucket, IMAGES_PER_THREAD * torch.get_num_threads())

    def _compile(self, model: VisionModel, dtype: torch.dtype) -> None:
        """Use the compiled tower: now if it is on disk, otherwise as soon as another process has made it."""
        from clip_compile import Compilation, CompileError

        log = pb_utils.Logger
        if dtype == torch.int8:
            log.log_warn("the vision tower in int8 cannot be compiled, running it uncompiled")
            return self._publish("eager")
        try:
            compilation = Compilation(model, self._directory, self._max_bucket)
            if compilation.path.exists():
                try:
                    return self._use_compiled(compilation.load())
                except CompileError as error:
                    log.log_warn(f"cannot use the compiled vision tower, compiling it again: {error}")
            self._publish("eager")
            compilation.start(self._use_compiled, self._report_uncompiled)
        except CompileError as error:
            self._publish("eager")
            self._report_uncompiled(str(error))
        else:
            self._compilation = compilation
            log.log_info(
                "compiling the vision tower for this CPU: once, in about a minute, kept in "
                f"{compilation.path.parent}; the uncompiled tower serves until then"
            )

    def _use_compiled(self, forward: Forward) -> None:
        self._encoder = DirectEncoder(forward, CPU, self._max_bucket)
        self._publish("compiled")

    def _report_uncompiled(self, reason: str) -> None:
        pb_utils.Logger.log_warn(f"cannot compile the vision tower, running it uncompiled: {reason}")

    def _publish(self, execution: str) -> None:
        """Publish the form of the tower that serves from now on."""
        before, self._info = (
            self._info,
            publish_model_info(
                self._metrics,
                pb_utils.Logger,
                self._directory,
                precision=self._precision,
                execution=execution,
            ),
        )
        if before is not None:
            before.set_now(0)  # Triton keeps every series that it has had

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
        started_us = now_us()
        images = [group.pixels.reshape(-1, *group.pixels.shape[2:]) for group in groups]
        embeds = self._encoder.encode(images)
        check_finite("image", embeds, groups[0].pixels.shape)
        ended_us = now_us()
        outcomes: list[Outcome] = []
        for group, part in zip(groups, split_rows(embeds, [group.size for group in groups]), strict=True):
            rows = group.pixels.shape[0]
            times = group.times.after(encode_us=ended_us - started_us)
            outcomes.append(
                {
                    "image_embeds": part.reshape(*group.pixels.shape[:2], -1),
                    "times": times.tensor(rows),
                    "timings_us": times.timings(rows, ended_us),
                }
            )
        return outcomes


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


def _compiling_pays(model: VisionModel) -> bool:
    """Return whether the compiled tower is faster: packed bfloat16 weights are, float32 weights are not."""
    return model.patch_embedding.weight.dtype == torch.bfloat16 and cpu_has_bfloat16()
