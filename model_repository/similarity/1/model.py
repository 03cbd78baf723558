"""Triton model `similarity`: image and text embeddings to logits and scores."""

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from clip_common.groups import Outputs
from clip_common.responder import Responder
from clip_scores import Embeds, check_embeds, score


class TritonPythonModel:
    """Inputs and outputs stand in `config.pbtxt`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the checkpoint's logit scale."""
        self._responder = Responder(pb_utils, args)
        settings = json.loads((Path(__file__).parent / "similarity.json").read_text(encoding="utf-8"))
        self._logit_scale = float(settings["logit_scale"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests of a dynamic batch; a bad one alone gets an error."""
        return self._responder.answer(requests, self._parse, self._run)

    def finalize(self) -> None:
        """Publishes the last figures."""
        self._responder.close()

    def _parse(self, request: Any) -> Embeds:
        names = ("image_embeds", "text_embeds")
        embeds = Embeds(*(pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names))
        check_embeds(embeds)
        return embeds

    def _run(self, groups: list[Embeds]) -> list[Outputs | Exception]:
        return list(score(groups, self._logit_scale))
