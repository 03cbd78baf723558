"""From the requests of one dynamic batch to one response each, so that a bad request never reaches another.

`pb_utils` is handed in, because it is empty while a model is imported.
"""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from clip_groups import Outputs, RequestError

Group = TypeVar("Group")
Run = Callable[[list[Group]], list[Outputs | Exception]]
"""Works on all groups at once; gives for each its outputs, or the error that befell it alone."""


class Responder:
    """Answers dynamic batches, and publishes how many requests it is working on.

    Args:
        pb_utils: Triton's `triton_python_backend_utils`.
        args: What Triton hands to `initialize`.
    """

    def __init__(self, pb_utils: Any, args: dict[str, str]) -> None:
        self._pb_utils = pb_utils
        self._family = pb_utils.MetricFamily(
            name="tritonclip_requests_executing",
            description="Requests of the dynamic batch in execution",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        labels = {"model": args["model_name"], "instance": args["model_instance_name"]}
        self._executing = self._family.Metric(labels=labels)

    def answer(self, requests: Sequence[Any], parse: Callable[[Any], Group], run: Run[Group]) -> list[Any]:
        """Answers every request of a dynamic batch, joining all the valid ones into one call of `run`.

        Args:
            requests: The requests that Triton merged.
            parse: Reads and checks one request; raises RequestError where it cannot be served.
            run: See `Run`.

        Returns:
            One InferenceResponse per request, in order: outputs, INVALID_ARG for a RequestError, INTERNAL for
            any other exception, whose details go to the server's log under an id and not to the caller.
        """
        self._executing.set(len(requests))
        outcomes: list[Any] = [_attempt(parse, request) for request in requests]
        valid = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
        results = run_joined(run, [outcomes[index] for index in valid])
        for index, result in zip(valid, results, strict=True):
            outcomes[index] = result
        responses = [self._response(outcome) for outcome in outcomes]
        self._executing.set(0)
        return responses

    def _response(self, outcome: Outputs | Exception) -> Any:
        pb_utils = self._pb_utils
        if isinstance(outcome, RequestError):
            return self._failure(str(outcome), pb_utils.TritonError.INVALID_ARG)
        if isinstance(outcome, Exception):
            incident = secrets.token_hex(4)
            details = "".join(traceback.format_exception(outcome))
            pb_utils.Logger.log_error(f"incident {incident}: {details}")
            text = f"internal error, incident {incident}: the server's log has the details"
            return self._failure(text, pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outcome.items()])

    def _failure(self, text: str, code: int) -> Any:
        return self._pb_utils.InferenceResponse(error=self._pb_utils.TritonError(text, code))


def run_joined(run: Run[Group], groups: list[Group]) -> list[Outputs | Exception]:
    """Runs all groups at once; where that fails as a whole, each alone, so that only the culprit fails."""
    if not groups:
        return []
    try:
        return run(groups)
    except Exception as error:
        if len(groups) == 1:
            return [error]
        return [outcome for group in groups for outcome in run_joined(run, [group])]


def _attempt(parse: Callable[[Any], Group], request: Any) -> Group | Exception:
    try:
        return parse(request)
    except Exception as error:
        return error
