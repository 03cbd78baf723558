"""Triton model `similarity`: image and text embeddings to logits and scores."""

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from clip_common.groups import Outcome
from clip_common.metrics import MetricFactory
from clip_common.parameters import Parameters
from clip_common.responder import Responder
from clip_common.times import now_us
from clip_common.version import check_version
from clip_scores import Embeds, check_embeds, score_in_bounds


class TritonPythonModel:
    """`config.pbtxt` describes inputs, outputs and parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the checkpoint's logit scale, and the limit on scores."""
        self._responder = Responder(pb_utils, MetricFactory(pb_utils, args))
        directory = Path(__file__).parent
        parameters = Parameters(json.loads(args["model_config"]))
        self._max_scores = parameters.integer("max_scores", minimum=1)
        check_version(directory, parameters)
        settings = json.loads((directory / "similarity.json").read_text(encoding="utf-8"))
        self._logit_scale = float(settings["logit_scale"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to all requests of a dynamic batch; an invalid one receives an error."""
        return self._responder.respond(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Publish the remaining metrics."""
        self._responder.close()

    def _parse(self, request: Any) -> Embeds:
        times = self._responder.times(request)
        names = ("image_embeds", "text_embeds")
        image, text = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names)
        embeds = Embeds(image, text, times)
        check_embeds(embeds, self._max_scores)
        return embeds

    def _run(self, requests: list[Embeds]) -> list[Outcome]:
        started_us = now_us()
        outcomes = score_in_bounds(requests, self._logit_scale, self._max_scores)
        ended_us = now_us()
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, dict):
                rows = len(request.image)
                outcome["timings_us"] = request.times.timings(rows, ended_us, ended_us - started_us)
        return outcomes
