"""Triton model `admission`: stamp the arrival of a request, or reject it."""

import json
import os
from typing import Any

import triton_python_backend_utils as pb_utils

from clip_admission import Limits, stamp
from clip_common.groups import Outputs
from clip_common.metrics import MetricFactory
from clip_common.parameters import Parameters
from clip_common.responder import Responder
from clip_common.times import RejectedError, now_us

DRAIN_FILE = "TRITONCLIP_DRAIN_FILE"
"""Environment variable that names a file; while the file exists, every request is rejected."""


class TritonPythonModel:
    """`config.pbtxt` describes inputs, outputs and parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the deployment's limits."""
        self._responder = Responder(pb_utils, MetricFactory(pb_utils, args), batches=False)
        parameters = Parameters(json.loads(args["model_config"]))
        self._limits = Limits(
            parameters.integer("queue_budget_ms", minimum=1),
            parameters.integer("default_deadline_ms", minimum=1),
        )
        self._drain_file = os.environ.get(DRAIN_FILE, "")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to each request with its times or a rejection."""
        self._draining = bool(self._drain_file) and os.path.exists(self._drain_file)
        return self._responder.respond(requests, self._parse, list)

    def finalize(self) -> None:
        """Publish the remaining metrics."""
        self._responder.close()

    def _parse(self, request: Any) -> Outputs:
        if self._draining:
            raise RejectedError(
                "draining", "draining: this server is shutting down and accepts no new requests; try another"
            )
        rows = request.inputs()[0].shape()[0]
        return {"times": stamp(request.parameters(), rows, self._limits, now_us())}
