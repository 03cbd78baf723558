"""Triton model `image_preprocess`: encoded images to pixel values, decoded in a pool of threads."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from clip_batch import BatchDecoder, threads_of_instance
from clip_common.cpu import available_cores
from clip_common.forecast import Forecast, progress_file
from clip_common.groups import Elements, Outputs, Parameters, read_elements
from clip_common.responder import Responder
from clip_common.times import now_us
from clip_images import ImageDecoder, ImageSettings, draft_ratio


class TritonPythonModel:
    """Inputs, outputs and parameters stand in `config.pbtxt`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the checkpoint's image settings and starts the threads."""
        self._responder = Responder(pb_utils, args, unit="images")
        config = json.loads(args["model_config"])
        parameters = Parameters(config)
        self._max_images = parameters.integer("max_images", minimum=1)
        self._max_request_bytes = parameters.integer("max_request_bytes", minimum=1)
        cores = available_cores()
        instances = sum(group.get("count", 1) for group in config["instance_group"])
        self._forecast = Forecast(progress_file(os.getppid(), args["model_version"]), instances)
        threads = parameters.integer("threads") or threads_of_instance(config["instance_group"], cores)
        content = (Path(__file__).parent / "processor.json").read_text(encoding="utf-8")
        settings = ImageSettings.from_dict(json.loads(content))
        decoder = ImageDecoder(
            settings,
            parameters.text("image_formats").split(","),
            parameters.integer("max_image_pixels", minimum=1),
            draft_ratio(parameters.text("jpeg_draft")),
        )
        gpu = _gpu_decoder(parameters, settings, args)
        self._batches = BatchDecoder(decoder.decode, settings.output_size, threads, gpu)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests of a dynamic batch; a bad one alone gets an error."""
        return self._responder.answer(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Ends the threads."""
        self._batches.close()
        self._responder.close()

    def _parse(self, request: Any) -> Elements:
        times = self._responder.times(request)
        tensor = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        images = read_elements(
            "image", tensor, max_count=self._max_images, max_bytes=self._max_request_bytes, times=times
        )
        self._forecast.admit(times, len(images.items), now_us())
        return images

    def _run(self, groups: list[Elements]) -> list[Outputs | Exception]:
        began_us = now_us()
        outcomes = self._batches.run(groups)
        took_us = now_us() - began_us
        for group, outcome in zip(groups, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                outcome["times"] = group.times.after_work(took_us).tensor(group.shape[0])
        return outcomes


def _gpu_decoder(parameters: Parameters, settings: ImageSettings, args: dict[str, str]) -> Any:
    """The decoder that `jpeg_decoder` asks for beside Pillow; None where it asks for none or has none."""
    device = parameters.integer("jpeg_gpu")
    if parameters.choice("jpeg_decoder", ("pillow", "nvjpeg")) == "pillow":
        return None
    if args["model_instance_kind"] == "GPU":
        device = int(args["model_instance_device_id"])
    if "JPEG" not in parameters.text("image_formats").split(","):
        return None
    try:
        nvjpeg = importlib.import_module("clip_nvjpeg")  # imports torch, which takes seconds
        limit = parameters.integer("max_image_pixels", minimum=1)
        return nvjpeg.NvJpeg(settings, limit, nvjpeg.load_decoder(device), pb_utils.Logger.log_warn)
    except Exception as error:
        text = f"jpeg_decoder 'nvjpeg' cannot be used, Pillow decodes: {type(error).__name__}: {error}"
        pb_utils.Logger.log_warn(text)
        return None
