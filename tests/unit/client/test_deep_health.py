"""The verdict of the deep health check on the answer or error of its inference."""

import pytest

from tritonclip import InferenceError
from tritonclip._calls import status
from tritonclip.errors import DeadlineExceededError, ServerUnavailableError


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ServerUnavailableError("overloaded: the request has waited 61 ms"), "overloaded"),
        (ServerUnavailableError("deadline passed: the request came with 0 ms left"), "overloaded"),
        (ServerUnavailableError("deadline cannot be met: the request has waited 5 ms"), "overloaded"),
        (ServerUnavailableError("draining: this server is about to stop"), "failed"),
        (ServerUnavailableError("connection refused"), "failed"),
        (InferenceError("overloaded: is no word of the admission here"), "failed"),
        (DeadlineExceededError("no answer within 1 s"), "timeout"),
    ],
)
def test_error_is_mapped_to_an_outcome(error, meaning):
    assert status.probe_outcome(error) == meaning


def test_scores_that_do_not_sum_to_one_fail_the_check():
    status.check_probe_answer([{"score": 0.75, "label": "red"}, {"score": 0.2499, "label": "blue"}])
    with pytest.raises(InferenceError, match=r"sum to 0\.5, not to 1"):
        status.check_probe_answer([{"score": 0.25, "label": "red"}, {"score": 0.25, "label": "blue"}])
