"""One response for each request of a dynamic batch, so that an invalid request cannot fail the others.

`pb_utils` is a parameter because the module is empty while Triton imports a model.
"""

from __future__ import annotations

import json
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from clip_common.groups import DEFERRED, EmbeddingError, Outcome, RequestError
from clip_common.metrics import Batch, MetricFactory, RequestMetrics
from clip_common.times import UNLIMITED, RejectedError, Times, now_us, read_times

MAX_REQUEST_ID = 128
"""Characters of a caller's request id to log."""
Group = TypeVar("Group")
RunGroups = Callable[[list[Group]], list[Outcome]]
"""Runs a model on the parsed requests of a batch; returns the outcome of each."""


class Responder:
    """Builds the responses of a model instance and publishes its request metrics.

    Args:
        pb_utils: Triton's `triton_python_backend_utils`.
        factory: Creates the series.
        unit: "images" or "labels", counted by the first two dimensions of the first output, or None.
        batches: Publish batch metrics.
    """

    def __init__(
        self, pb_utils: Any, factory: MetricFactory, *, unit: str | None = None, batches: bool = True
    ) -> None:
        self._pb_utils, self._model = pb_utils, factory.labels["model"]
        self._metrics = RequestMetrics(factory, unit, batches)

    def check_times(self, request: Any) -> Times:
        """Return what `times` returns, unless it is too late to begin work on the request.

        Raises:
            RequestError: The caller made the times.
            RejectedError: Its queue budget or deadline has passed.
        """
        times = self.times(request)
        if times is not UNLIMITED:
            times.check(now_us())
        return times

    def times(self, request: Any) -> Times:
        """Return the times of a request, UNLIMITED if it did not pass through `admission`.

        Raises:
            RequestError: The caller made the times.
        """
        tensor = self._pb_utils.get_input_tensor_by_name(request, "times")
        array = None if tensor is None else tensor.as_numpy()
        if array is None or not array.size:
            return UNLIMITED
        times = read_times(array)
        if not times.is_possible(now_us()):
            raise RequestError("times: no step of an ensemble made these numbers; leave the input out")
        return times

    def respond(
        self,
        requests: Sequence[Any],
        parse: Callable[[Any], Group],
        run: RunGroups[Group],
        largest: int | None = None,
    ) -> list[Any]:
        """Parse the requests of a dynamic batch, run all valid ones together, and build the responses.

        Args:
            requests: The requests that Triton merged.
            parse: Reads and checks one request. It raises RequestError if the request is invalid, and
                RejectedError if the server does not work on it.
            run: Runs the model on what `parse` returned.
            largest: Limit on the sum of the groups' `size` in a call of `run`, except for a single group.
                A larger batch is run in parts, and each part but the last is answered and freed before the
                next. None runs all groups in one call.

        Returns:
            One InferenceResponse per request, in order, None for a deferred one. Errors become INVALID_ARG
            for a RequestError, UNAVAILABLE for a RejectedError, and INTERNAL for any other exception. The
            details of an internal error are logged with an incident id; the caller receives only the id, and
            the text of an EmbeddingError.
        """
        started_s = time.perf_counter()
        self._metrics.begin(len(requests))
        outcomes: list[Any] = [_try_parse(parse, request) for request in requests]
        valid = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
        *early, last = [valid] if largest is None else _parts(valid, outcomes, largest)
        for part in early:
            part_started_s = time.perf_counter()
            results = run_isolating_failures(run, [outcomes[index] for index in part])
            for index in part:
                result = results.pop(0)
                if result != DEFERRED:  # `run` has taken the others out of the batch
                    self.defer(requests[index], part_started_s)(result)
                outcomes[index] = DEFERRED
        results = run_isolating_failures(run, [outcomes[index] for index in last])
        for index, result in zip(last, results, strict=True):
            outcomes[index] = result
        responses = [
            self._response(outcome, request.request_id)
            for request, outcome in zip(requests, outcomes, strict=True)
        ]
        batch = Batch(len(requests), _batch_size(outcomes), time.perf_counter() - started_s)
        self._metrics.finish(batch, _rejections(outcomes))
        return responses

    def defer(self, request: Any, started_s: float | None = None) -> Callable[[Outcome], None]:
        """Take a request out of its batch, so that `respond` does not wait for it.

        `run` returns DEFERRED for the request.

        Args:
            request: The request.
            started_s: Time of `time.perf_counter` when the work on it began; now if None.

        Returns:
            A function that responds to the request. It is called once, from any thread.
        """
        started_s = time.perf_counter() if started_s is None else started_s
        request_id, sender = request.request_id(), request.get_response_sender()
        self._metrics.defer()

        def respond(outcome: Outcome) -> None:
            response = self._response(outcome, lambda: request_id)
            try:
                sender.send(response, flags=self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            except Exception as error:
                self._pb_utils.Logger.log_error(f"model {self._model}: cannot send a response: {error}")
            batch = Batch(1, _batch_size([outcome]), time.perf_counter() - started_s)
            self._metrics.finish_deferred(batch, _rejections([outcome]))

        return respond

    def close(self) -> None:
        """Publish the remaining metrics."""
        self._metrics.close()

    def _response(self, outcome: Outcome, request_id: Callable[[], str]) -> Any:
        pb_utils = self._pb_utils
        if outcome == DEFERRED:
            return None
        if isinstance(outcome, RequestError):
            return self._error(str(outcome), pb_utils.TritonError.INVALID_ARG)
        if isinstance(outcome, RejectedError):
            return self._error(str(outcome), pb_utils.TritonError.UNAVAILABLE)
        if isinstance(outcome, Exception):
            return self._internal_error(outcome, request_id())
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outcome.items()])

    def _internal_error(self, error: Exception, request_id: str) -> Any:
        incident = secrets.token_hex(4)
        details = "".join(traceback.format_exception(error))
        shown_id = json.dumps(request_id[:MAX_REQUEST_ID])  # escaped: callers may send anything
        self._pb_utils.Logger.log_error(
            f"incident {incident}, model {self._model}, request {shown_id}: {details}"
        )
        text = f"internal error, incident {incident}: the server's log has the details"
        if isinstance(error, EmbeddingError):
            text = f"{error} ({text})"
        return self._error(text, self._pb_utils.TritonError.INTERNAL)

    def _error(self, text: str, code: int) -> Any:
        return self._pb_utils.InferenceResponse(error=self._pb_utils.TritonError(text, code))


def _parts(indices: list[int], groups: Sequence[Any], largest: int) -> list[list[int]]:
    """Split the indices of groups into parts whose sizes add up to at most `largest`, or hold one group."""
    parts: list[list[int]] = [[]]
    total = 0
    for index in indices:
        if parts[-1] and total + groups[index].size > largest:
            parts.append([])
            total = 0
        parts[-1].append(index)
        total += groups[index].size
    return parts


def run_isolating_failures(run: RunGroups[Group], groups: list[Group]) -> list[Outcome]:
    """Run all groups in one call; if it raises, run each alone, so that only the group at fault fails."""
    if not groups:
        return []
    try:
        return run(groups)
    except Exception as error:
        if len(groups) == 1:
            return [error]
        return [outcome for group in groups for outcome in run_isolating_failures(run, [group])]


def _batch_size(outcomes: Sequence[Outcome]) -> int:
    """Count the images or labels of the requests that succeeded, by their first output."""
    shapes = (next(iter(outcome.values())).shape for outcome in outcomes if isinstance(outcome, dict))
    return sum(shape[0] * shape[1] for shape in shapes)


def _rejections(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the reason of each rejected request."""
    return [outcome.reason for outcome in outcomes if isinstance(outcome, RejectedError)]


def _try_parse(parse: Callable[[Any], Group], request: Any) -> Group | Exception:
    try:
        return parse(request)
    except Exception as error:
        return error
