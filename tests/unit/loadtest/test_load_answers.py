"""The checks of answers notice wrong ones, mixed-up ones above all, and let right ones pass."""

from __future__ import annotations

import time

import numpy as np
import pytest
from loadtest.load.answers import FirstAnswers, WrongAnswerError, check_refusal
from loadtest.load.calls import (
    DEADLINE,
    ERROR,
    REFUSED,
    RIGHT,
    WRONG,
    image_files,
    perform,
    result_of,
)
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
        ([ranking(0.2, 0.7, 0.1)], "another answer than before"),
        ([ranking(0.7, 0.2, 0.2)], "sum not 1"),
        ([ranking(0.7, 0.2, float("nan"))], "not finite"),
        ([ranking(0.7, 0.2, 0.1)[:2]], "other labels"),
        ([ranking(0.7, 0.2, 0.1)[::-1]], "not in order"),
        ([ranking(0.7, 0.2, 0.1)] * 2, "wrong shape"),
        ([[*ranking(0.7, 0.2, 0.1)[:2], {"score": 0.1, "label": "a bird"}]], "other labels"),
    ],
)
def test_wrong_rankings_are_noticed(answers: FirstAnswers, answer: list, reason: str):
    with pytest.raises(WrongAnswerError, match=reason):
        answers.check(CLASSIFY, answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ROWS[::-1], "another answer than before"),
        (ROWS * 1.1, "not of unit norm"),
        (ROWS * np.nan, "not finite"),
        (ROWS[:1], "wrong shape"),
        (np.eye(2, 9, dtype=np.float32), "wrong shape"),
    ],
)
@pytest.mark.parametrize("job", [IMAGES, TEXTS], ids=lambda job: job.kind)
def test_wrong_embeddings_are_noticed(answers: FirstAnswers, job: Job, answer: np.ndarray, reason: str):
    with pytest.raises(WrongAnswerError, match=reason):
        answers.check(job, answer)


def test_embeddings_of_another_image_are_noticed_where_only_one_of_a_request_is_swapped(
    answers: FirstAnswers,
):
    with pytest.raises(WrongAnswerError, match="another answer than before"):
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
def test_refusals_that_name_another_input_are_noticed(fault: Fault, message: str):
    with pytest.raises(WrongAnswerError, match="refusal names another input"):
        check_refusal(fault, message)


def test_right_refusals_pass():
    check_refusal(Fault(TRUNCATED, 1), "image 1 cannot be decoded")
    check_refusal(Fault(EMPTY_TEXT, 2), "label 2 is empty; send a text")


class Answering:
    """A caller that answers, or raises, what it is told to."""

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
        (IMAGES, ServerUnavailableError("overloaded: 3 s"), REFUSED, "embed_images - refused"),
        (IMAGES, ServerUnavailableError("deadline passed: 2 s ago"), DEADLINE, "embed_images - deadline"),
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
        (BAD, ServerUnavailableError("overloaded: 3 s"), REFUSED, "bad request: truncated image - refused"),
    ],
)
def test_outcomes_have_names_of_their_own(
    answers: FirstAnswers, job: Job, answer: object, result: str, name: str
):
    outcome = perform(Answering(answer), job, answers)
    assert (outcome.result, outcome.name) == (result, name)
    assert result_of(outcome.name) == result
    assert (outcome.failure is None) == (result == RIGHT)
    if outcome.failure:
        assert str(outcome.failure).startswith(result)


def test_equal_failures_have_one_text():
    texts = {
        str(
            perform(
                Answering(ServerUnavailableError(f"overloaded: {n} ms")), IMAGES, FirstAnswers(1, 1)
            ).failure
        )
        for n in (5, 71, 3.5)
    }
    assert len(texts) == 1


def test_only_the_faulty_image_is_spoilt():
    pictures = [b"a" * 10, b"b" * 10]
    assert image_files(pictures, BAD) == [b"a" * 10, b"b" * 5]
    assert image_files(pictures, IMAGES) == pictures


def test_latency_counts_from_when_the_request_was_due(answers: FirstAnswers):
    hour_ago = time.perf_counter() - 3600
    assert perform(Answering(ROWS), IMAGES, answers, due_s=hour_ago).latency_ms >= 3_600_000
    assert perform(Answering(ROWS), IMAGES, answers).latency_ms < 3_600_000
