"""Accuracy of the shipped checkpoint on all held-out pictures and all templates."""

import pytest

from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip_server.demo.drawing import draw_plain_digit
from tritonclip_server.demo.evaluation import digit_task, pair_task, run_task
from tritonclip_server.demo.scenes import HELD_OUT
from tritonclip_server.repository.reference import Reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference():
    return Reference(DEMO_CHECKPOINT)


def test_held_out_pairs_are_classified_at_90_percent(reference):
    results = run_task(reference, pair_task("held-out pairs", HELD_OUT, per_pair=10, seed=123))
    assert results[0].pictures == 200 and results[0].labels == 100
    assert min(result.accuracy for result in results) >= 0.90, results


def test_held_out_digits_are_classified_at_90_percent(reference):
    results = run_task(reference, digit_task("held-out digits", draw_plain_digit))
    assert results[0].pictures == 899
    assert min(result.accuracy for result in results) >= 0.90, results
