"""Checks of answers detect wrong and swapped answers, and outcomes classify failures."""

from __future__ import annotations

import time

import numpy as np
import pytest
from loadtest.load.answers import FirstAnswers, WrongAnswerError, check_error_text
from loadtest.load.callers import image_files
from loadtest.load.outcomes import DEADLINE, ERROR, REJECTED, RIGHT, WRONG, perform, result_of
from loadtest.load.workload import EMPTY_TEXT, NOT_AN_IMAGE, TRUNCATED, Fault, Job

from tritonclip import DeadlineExceededError, InvalidInputError, ServerUnavailableError

LABELS = ("a cat", "a dog", "a fish")
CLASSIFY = Job("classify", images=(0,), texts=LABELS)
IMAGES = Job("embed_images", images=(0, 1))
TEXTS = Job("embed_texts", texts=("one", "two"))
ROWS = np.eye(2, 8, dtype=np.float32)


def ranking(*scores: float) -> list[dict[str, object]]:
    pairs = sorted(zip(scores, LABELS, strict=True), reverse=True)
    return [{"score": score, "label": label} for score, label in pairs]


@pytest.fixture
def answers() -> FirstAnswers:
    first = FirstAnswers(score_tolerance=0.02, cosine_tolerance=0.001)
    first.check(CLASSIFY, [ranking(0.7, 0.2, 0.1)])
    first.check(IMAGES, ROWS)
    first.check(TEXTS, ROWS)
    return first


def test_right_answers_pass(answers: FirstAnswers):
    answers.check(CLASSIFY, [ranking(0.705, 0.195, 0.1)])
    answers.check(IMAGES, ROWS)
    answers.check(Job("embed_images", images=(1, 0)), ROWS[::-1])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([ranking(0.2, 0.7, 0.1)], "differs from first answer"),
        ([ranking(0.7, 0.2, 0.2)], "sum not 1"),
        ([ranking(0.7, 0.2, float("nan"))], "not finite"),
        ([ranking(0.7, 0.2, 0.1)[:2]], "wrong labels"),
        ([ranking(0.7, 0.2, 0.1)[::-1]], "not sorted"),
        ([ranking(0.7, 0.2, 0.1)] * 2, "wrong shape"),
        ([[*ranking(0.7, 0.2, 0.1)[:2], {"score": 0.1, "label": "a bird"}]], "wrong labels"),
    ],
)
def test_wrong_ranking_is_detected(answers: FirstAnswers, answer: list, reason: str):
    with pytest.raises(WrongAnswerError, match=reason):
        answers.check(CLASSIFY, answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ROWS[::-1], "differs from first answer"),
        (ROWS * 1.1, "norm not 1"),
        (ROWS * np.nan, "not finite"),
        (ROWS[:1], "wrong shape"),
        (np.eye(2, 9, dtype=np.float32), "wrong shape"),
    ],
)
@pytest.mark.parametrize("job", [IMAGES, TEXTS], ids=lambda job: job.kind)
def test_wrong_embedding_is_detected(answers: FirstAnswers, job: Job, answer: np.ndarray, reason: str):
    with pytest.raises(WrongAnswerError, match=reason):
        answers.check(job, answer)


def test_single_swapped_embedding_of_a_request_is_detected(answers: FirstAnswers):
    with pytest.raises(WrongAnswerError, match="differs from first answer"):
        answers.check(Job("embed_images", images=(2, 1)), np.stack([ROWS[1], ROWS[0]]))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(TRUNCATED, 1), "image 0 cannot be decoded"),
        (Fault(TRUNCATED, 1), "image 10 cannot be decoded"),
        (Fault(EMPTY_TEXT, 1), "image 1 is empty"),
        (Fault(NOT_AN_IMAGE, 0), "something is wrong"),
    ],
)
def test_error_that_names_another_input_is_detected(fault: Fault, message: str):
    with pytest.raises(WrongAnswerError, match="error names another input"):
        check_error_text(fault, message)


def test_error_that_names_the_invalid_input_passes():
    check_error_text(Fault(TRUNCATED, 1), "image 1 cannot be decoded")
    check_error_text(Fault(EMPTY_TEXT, 2), "label 2 is empty; send a text")


class FixedCaller:
    """Caller that returns or raises a fixed answer."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def send(self, job: Job) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None: ...


BAD = Job("embed_images", images=(0, 1), fault=Fault(TRUNCATED, 1))


@pytest.mark.parametrize(
    ("job", "answer", "result", "name"),
    [
        (IMAGES, ROWS, RIGHT, "embed_images"),
        (IMAGES, ROWS[::-1], WRONG, "embed_images - wrong answer"),
        (IMAGES, InvalidInputError("image 0 cannot be decoded"), WRONG, "embed_images - wrong answer"),
        (IMAGES, ServerUnavailableError("overloaded: 3 s"), REJECTED, "embed_images - rejected"),
        (IMAGES, ServerUnavailableError("deadline passed: 2 s ago"), REJECTED, "embed_images - rejected"),
        (IMAGES, ServerUnavailableError("deadline cannot be met: 2 s"), REJECTED, "embed_images - rejected"),
        (IMAGES, ServerUnavailableError("draining: stopping"), REJECTED, "embed_images - rejected"),
        (IMAGES, DeadlineExceededError("no answer within 1 s"), DEADLINE, "embed_images - deadline"),
        (IMAGES, ServerUnavailableError("connection refused"), ERROR, "embed_images - error"),
        (IMAGES, RuntimeError("what is this"), ERROR, "embed_images - error"),
        (BAD, InvalidInputError("image 1 cannot be decoded"), RIGHT, "bad request: truncated image"),
        (
            BAD,
            InvalidInputError("image 0 cannot be decoded"),
            WRONG,
            "bad request: truncated image - wrong answer",
        ),
        (BAD, ROWS, WRONG, "bad request: truncated image - wrong answer"),
        (BAD, ServerUnavailableError("overloaded: 3 s"), REJECTED, "bad request: truncated image - rejected"),
    ],
)
def test_outcome_has_result_and_name(answers: FirstAnswers, job: Job, answer: object, result: str, name: str):
    outcome = perform(FixedCaller(answer), job, answers)
    assert (outcome.result, outcome.name) == (result, name)
    assert result_of(outcome.name) == result
    assert (outcome.failure is None) == (result == RIGHT)
    if outcome.failure:
        assert str(outcome.failure).startswith(result)


def test_failures_that_differ_in_numbers_have_the_same_text():
    texts = {
        str(
            perform(
                FixedCaller(ServerUnavailableError(f"overloaded: {n} ms")), IMAGES, FirstAnswers(1, 1)
            ).failure
        )
        for n in (5, 71, 3.5)
    }
    assert len(texts) == 1


def test_only_the_image_at_the_fault_is_damaged():
    pictures = [b"a" * 10, b"b" * 10]
    assert image_files(pictures, BAD) == [b"a" * 10, b"b" * 5]
    assert image_files(pictures, IMAGES) == pictures


def test_latency_counts_from_the_due_time(answers: FirstAnswers):
    hour_ago = time.perf_counter() - 3600
    assert perform(FixedCaller(ROWS), IMAGES, answers, due_s=hour_ago).latency_ms >= 3_600_000
    assert perform(FixedCaller(ROWS), IMAGES, answers).latency_ms < 3_600_000
