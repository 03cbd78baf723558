"""Triton model `admission`: stamps a request's arrival, and refuses at the door."""

import json
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from clip_admission import Limits, stamp
from clip_common.groups import Outputs, Parameters
from clip_common.responder import Responder
from clip_common.times import RefusedError, now_us

DRAIN_FILE = "TRITONCLIP_DRAIN_FILE"


class TritonPythonModel:
    """Inputs, outputs and parameters stand in `config.pbtxt`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the limits."""
        self._responder = Responder(pb_utils, args, batches=False)
        parameters = Parameters(json.loads(args["model_config"]))
        self._limits = Limits(
            parameters.integer("queue_budget_ms", minimum=1),
            parameters.integer("default_deadline_ms", minimum=1),
        )
        self._drain_file = os.environ.get(DRAIN_FILE, "")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers a request: with its times, or a refusal."""
        self._draining = bool(self._drain_file) and os.path.exists(self._drain_file)
        return self._responder.answer(requests, self._parse, list)

    def finalize(self) -> None:
        """Publishes the last figures."""
        self._responder.close()

    def _parse(self, request: Any) -> Outputs:
        if self._draining:
            raise RefusedError(
                "draining", "draining: this server is about to stop and takes no new work; try another"
            )
        rows = _rows(request)
        return {"times": stamp(request.parameters(), rows, self._limits, now_us())}


def _rows(request: Any) -> int:
    tensors = (pb_utils.get_input_tensor_by_name(request, name) for name in ("text", "image", "pixel_values"))
    shapes = [np.shape(tensor.as_numpy()) for tensor in tensors if tensor is not None]
    return shapes[0][0]
