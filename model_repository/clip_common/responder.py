"""From the requests of one dynamic batch to one response each, so that a bad request never reaches another.

`pb_utils` is handed in, because it is empty while a model is imported.
"""

from __future__ import annotations

import json
import secrets
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from clip_common.groups import Outputs, RequestError
from clip_common.metrics import Batch, BatchMetrics, instance_labels
from clip_common.times import RefusedError, Times, now_us, read_times

MAX_REQUEST_ID = 128
REASONS = ("overload", "deadline", "draining")
Group = TypeVar("Group")
Run = Callable[[list[Group]], list[Outputs | Exception]]
"""Works on all groups at once; gives for each its outputs, or the error that befell it alone."""


class Responder:
    """Answers dynamic batches; publishes how many requests it works on, how many it refused, and what it did.

    Args:
        pb_utils: Triton's `triton_python_backend_utils`.
        args: What Triton hands to `initialize`.
        unit: What the model counts, images or labels, by the first two dimensions of its first output; None:
            neither.
        batches: Whether the model works on dynamic batches, and publishes those in execution at two messages
            to Triton each.
    """

    def __init__(
        self, pb_utils: Any, args: dict[str, str], *, unit: str | None = None, batches: bool = True
    ) -> None:
        self._pb_utils = pb_utils
        self._model = args["model_name"]
        self._metrics = BatchMetrics(pb_utils, args, unit)
        self._family = pb_utils.MetricFamily(
            name="tritonclip_requests_executing",
            description="Requests of the dynamic batch in execution",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._refusals = pb_utils.MetricFamily(
            name="tritonclip_requests_refused_total",
            description="Requests not worked on, by reason: overload, deadline or draining",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        labels = instance_labels(args)
        self._executing = self._family.Metric(labels=labels) if batches else None
        self._refused = {
            reason: self._refusals.Metric(labels={**labels, "reason": reason}) for reason in REASONS
        }

    def times(self, request: Any) -> Times:
        """The request's times, unlimited where it did not come through `admission`.

        Raises:
            RefusedError: They are over.
        """
        tensor = self._pb_utils.get_input_tensor_by_name(request, "times")
        times = read_times(None if tensor is None else tensor.as_numpy())
        times.check(now_us())
        return times

    def answer(self, requests: Sequence[Any], parse: Callable[[Any], Group], run: Run[Group]) -> list[Any]:
        """Answers every request of a dynamic batch, joining all the valid ones into one call of `run`.

        Args:
            requests: The requests that Triton merged.
            parse: Reads and checks one request; raises RequestError where it cannot be served.
            run: See `Run`.

        Returns:
            One InferenceResponse per request, in order: outputs, INVALID_ARG for a RequestError, UNAVAILABLE
            for a RefusedError, INTERNAL for any other exception, whose details go to the server's log under
            an id, with the model's name and the request's own id, and not to the caller.
        """
        self._publish_executing(len(requests))
        began_s = time.perf_counter()
        outcomes: list[Any] = [_attempt(parse, request) for request in requests]
        valid = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
        results = run_joined(run, [outcomes[index] for index in valid])
        for index, result in zip(valid, results, strict=True):
            outcomes[index] = result
        responses = [
            self._response(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)
        ]
        refusals = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, RefusedError))
        for reason, count in refusals.items():
            self._refused[reason].increment(count)
        if self._executing:
            self._metrics.note(Batch(len(requests), _size(outcomes), time.perf_counter() - began_s))
        self._publish_executing(0)
        return responses

    def close(self) -> None:
        """Publishes what was not published yet."""
        self._metrics.close()

    def _publish_executing(self, count: int) -> None:
        if self._executing:
            self._executing.set(count)

    def _response(self, request: Any, outcome: Outputs | Exception) -> Any:
        pb_utils = self._pb_utils
        if isinstance(outcome, RequestError):
            return self._failure(str(outcome), pb_utils.TritonError.INVALID_ARG)
        if isinstance(outcome, RefusedError):
            return self._failure(str(outcome), pb_utils.TritonError.UNAVAILABLE)
        if isinstance(outcome, Exception):
            incident = secrets.token_hex(4)
            details = "".join(traceback.format_exception(outcome))
            name = json.dumps(request.request_id()[:MAX_REQUEST_ID])  # the caller's: it may hold anything
            pb_utils.Logger.log_error(f"incident {incident}, model {self._model}, request {name}: {details}")
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


def _size(outcomes: Sequence[Outputs | Exception]) -> int:
    """Images or labels of the requests that are answered."""
    first = (next(iter(one.values())).shape for one in outcomes if not isinstance(one, Exception))
    return sum(shape[0] * shape[1] for shape in first)


def _attempt(parse: Callable[[Any], Group], request: Any) -> Group | Exception:
    try:
        return parse(request)
    except Exception as error:
        return error
