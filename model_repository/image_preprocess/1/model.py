"""Triton model `image_preprocess`: encoded images to pixel values, decoded by a pool of threads."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import triton_python_backend_utils as pb_utils

from clip_batch import BatchDecoder, threads_per_instance
from clip_bounded import BoundedDecoder
from clip_common.cpu import available_cores
from clip_common.groups import DEFERRED, Elements, Outcome, read_elements
from clip_common.metrics import MetricFactory
from clip_common.parameters import Parameters
from clip_common.responder import Responder, run_isolating_failures
from clip_common.times import now_us
from clip_common.version import check_version
from clip_deferred import REQUESTS_PER_THREAD, DeferredRequests, is_plain
from clip_geometry import TORCHVISION, ProcessorSettings
from clip_pillow import accepted_formats, draft_ratio
from clip_work import WorkLimits
from clip_worker import WorkerOptions


class Images(NamedTuple):
    """A request and its images."""

    request: Any
    group: Elements

    @property
    def size(self) -> int:
        """Number of images."""
        return self.group.size


class TritonPythonModel:
    """`config.pbtxt` describes inputs, outputs and parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the checkpoint's processor settings and start the decoding threads."""
        self._responder = Responder(pb_utils, MetricFactory(pb_utils, args), unit="images")
        config = json.loads(args["model_config"])
        parameters = Parameters(config)
        self._max_images = parameters.integer("max_images", minimum=1)
        self._max_request_bytes = parameters.integer("max_request_bytes", minimum=1)
        self._max_batch_images = parameters.integer("max_batch_images", minimum=1)
        directory = Path(__file__).parent
        check_version(directory, parameters)
        processor = json.loads((directory / "processor.json").read_text(encoding="utf-8"))
        processor["image_processor"] = parameters.text("image_processor")
        settings = ProcessorSettings.from_dict(processor)
        options = WorkerOptions(
            processor,
            accepted_formats(parameters.text("image_formats")),
            parameters.integer("max_image_pixels", minimum=1),
            draft_ratio(parameters.text("jpeg_draft")),
            parameters.integer("worker_memory_mib", minimum=128),
        )
        limits = WorkLimits(
            parameters.integer("max_request_pixels", minimum=1),
            parameters.integer("max_worker_cpu_s", minimum=1),
        )
        if settings.image_processor == TORCHVISION:
            from clip_common.torch_setup import torch

            torch.set_num_threads(1)  # per image; several are resized at once
        threads = parameters.integer("threads") or threads_per_instance(
            config["instance_group"], available_cores()
        )
        self._bounded = BoundedDecoder(options, threads)
        self._plain, self._others = (
            BatchDecoder(self._bounded.decode, settings.output_size, threads, limits) for _ in range(2)
        )
        self._deferred = DeferredRequests(
            lambda group: self._decode(self._others, [group])[0],
            REQUESTS_PER_THREAD * threads,
            self._max_batch_images,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to all requests of a dynamic batch; an invalid one receives an error."""
        return self._responder.respond(requests, self._parse, self._run, self._max_batch_images)

    def finalize(self) -> None:
        """Stop the threads and the worker processes, and publish the remaining metrics."""
        self._deferred.close()
        self._plain.close()
        self._others.close()
        self._bounded.close()
        self._responder.close()

    def _parse(self, request: Any) -> Images:
        times = self._responder.check_times(request)
        tensor = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        group = read_elements(
            "image",
            tensor,
            max_count=self._max_images,
            max_bytes=self._max_request_bytes,
            times=times,
            is_cancelled=request.is_cancelled,
        )
        return Images(request, group)

    def _run(self, batch: list[Images]) -> list[Outcome]:
        """Decode the requests with plain images together, and defer those that need worker processes."""
        plain = [is_plain(images.group) for images in batch]
        deferred = [not known and self._defer(images) for images, known in zip(batch, plain, strict=True)]
        decoded = iter(self._decode(self._plain, [batch[n].group for n, known in enumerate(plain) if known]))
        outcomes: list[Outcome] = []
        for images, known, apart in zip(batch, plain, deferred, strict=True):
            if known:
                outcomes.append(next(decoded))
            else:
                outcomes.append(DEFERRED if apart else self._decode(self._others, [images.group])[0])
        return outcomes

    def _defer(self, images: Images) -> bool:
        return self._deferred.defer(images.group, lambda: self._responder.defer(images.request))

    def _decode(self, decoder: BatchDecoder, groups: list[Elements]) -> list[Outcome]:
        started_us = now_us()
        outcomes = run_isolating_failures(decoder.run, groups)
        took_us = now_us() - started_us
        for group, outcome in zip(groups, outcomes, strict=True):
            if isinstance(outcome, dict):
                outcome["times"] = group.times.after(decode_us=took_us).tensor(group.shape[0])
        return outcomes
