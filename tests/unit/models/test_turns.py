"""Turns of large requests: each advances, duplicates are encoded once, and the hopeless are rejected."""

import threading

import numpy as np
import pytest

from clip_cache import LabelCache
from clip_common.groups import Elements, EmbeddingError
from clip_common.times import UNLIMITED, RejectedError, Times
from clip_labels import Tokens
from clip_turns import FIRST_TOKENS, LEAST_TOKENS, TURN_BYTES, TURN_US, Job, Turns

DIM = 4
TOKENS = 8
"""Tokens of each label."""
S = 1_000_000
WARM_UP = 2000
"""Labels of more full turns than an instance needs before it trusts its rate."""


def embedding(text):
    return np.full(DIM, int(text.split()[-1]), np.float32)


class Tower:
    """A text tower with a clock. Its first pass waits for `let_run`.

    Attributes:
        passes: The numbers of the labels in each pass.
        tokenized: Bytes of text in each call of the tokenizer.
    """

    def __init__(self, us_per_token=100):
        self.us_per_token = us_per_token
        self.now_us = 0
        self.passes, self.tokenized = [], []
        self._may_run = threading.Event()
        self.fault = None

    def tokenize(self, texts):
        self.tokenized.append(sum(map(len, texts)))
        return [Tokens(np.full(TOKENS, int(text.split()[-1]), np.int32), TOKENS + 1) for text in texts]

    def encode(self, ids):
        assert self._may_run.wait(60)
        if self.fault is not None:
            raise self.fault
        self.passes.append([int(one[0]) for one in ids])
        self.now_us += self.us_per_token * sum(map(len, ids))
        return np.stack([np.full(DIM, one[0], np.float32) for one in ids])

    def let_run(self):
        """Permit all passes."""
        self._may_run.set()


class Caller:
    """Adds jobs and waits for their outcomes."""

    def __init__(self, turns, cache):
        self.turns, self.cache = turns, cache
        self.order = []

    def add(self, numbers, times=UNLIMITED, is_cancelled=lambda: False):
        labels = [b"label %d" % number for number in numbers]
        done = threading.Event()
        outcome = []

        def finish(answer):
            outcome.append(answer)
            self.order.append(numbers)
            done.set()

        group = Elements(labels, (1, len(labels)), times, is_cancelled)
        self.turns.add(Job(group, finish, *self.cache.look_up(labels)))

        def wait():
            assert done.wait(60)
            return outcome[0]

        return wait


@pytest.fixture
def tower():
    return Tower()


@pytest.fixture
def encoded():
    """Numbers of labels encoded and evicted, by turn."""
    return []


@pytest.fixture
def caller(tower, encoded):
    cache = LabelCache(1 << 20, DIM)
    turns = Turns(
        tower.tokenize,
        tower.encode,
        cache,
        1024,
        lambda *counts: encoded.append(counts),
        clock=lambda: tower.now_us,
    )
    yield Caller(turns, cache)
    tower.let_run()
    turns.close()


def numbers_of(answer):
    return answer.embeds[:, 0].tolist()


def test_embeddings_come_back_in_the_order_of_the_labels(caller, tower):
    tower.let_run()
    caller.add([7, 8])()
    wanted = [5, 7, 3, 5, 9, 8]
    answer = caller.add(wanted)()
    assert numbers_of(answer) == wanted
    assert answer.token_counts.tolist() == [TOKENS + 1] * len(wanted)
    assert sorted(sum(tower.passes[1:], [])) == [3, 5, 9]


def test_small_request_is_answered_between_the_passes_of_a_large_one(caller, tower):
    large = caller.add(range(1000))
    small = caller.add([5000, 5001])
    tower.let_run()
    assert numbers_of(small()) == [5000, 5001]
    assert numbers_of(large()) == list(range(1000))
    assert caller.order[0] == [5000, 5001]
    assert min(index for index, one in enumerate(tower.passes) if 5001 in one) < 4


def test_requests_share_a_turn_equally(caller, tower):
    waits = [
        caller.add([caller_number * 1000 + number for number in range(200)]) for caller_number in range(4)
    ]
    tower.let_run()
    for wait in waits:
        wait()
    shared = [one for one in tower.passes if len({number // 1000 for number in one}) == 4]
    for one in shared[:-1]:
        counts = [sum(number // 1000 == caller_number for number in one) for caller_number in range(4)]
        assert max(counts) - min(counts) <= 1
    assert len(shared) > 2


def test_more_requests_than_fit_into_a_turn_all_advance(caller, tower):
    waits = [caller.add([1000 * one, 1000 * one + 1]) for one in range(3 * FIRST_TOKENS // TOKENS)]
    tower.let_run()
    for one, wait in enumerate(waits):
        assert numbers_of(wait()) == [1000 * one, 1000 * one + 1]


def test_pass_is_bounded_by_the_rate_of_the_tower(caller, tower):
    tower.us_per_token = 10_000
    tower.let_run()
    caller.add(range(100))()
    tower.us_per_token = 10 * TURN_US
    caller.add(range(100, 200))()
    sizes = [len(one) * TOKENS for one in tower.passes]
    assert sizes[0] == FIRST_TOKENS
    assert sizes[1] == -(-TURN_US // 10_000 // TOKENS) * TOKENS
    assert sizes[-2] == LEAST_TOKENS


def test_tokenizing_is_bounded_in_each_turn(caller, tower):
    tower.let_run()
    caller.add(range(10_000))()
    longest = len("label 9999")
    assert max(tower.tokenized) < TURN_BYTES + longest
    assert sum(tower.tokenized) == sum(len(f"label {number}") for number in range(10_000))


def test_labels_of_several_requests_are_encoded_once(caller, tower, encoded):
    waits = [caller.add(range(300)) for _ in range(3)]
    tower.let_run()
    for wait in waits:
        assert numbers_of(wait()) == list(range(300))
    assert sorted(sum(tower.passes, [])) == list(range(300))
    assert sum(count for count, _ in encoded) == 300


def test_request_is_rejected_before_its_first_pass_if_it_cannot_be_finished_in_time(caller, tower):
    tower.let_run()
    caller.add(range(WARM_UP))()
    before = len(tower.passes)
    tokens = 1000 * TOKENS
    late = Times(tower.now_us, S, tower.now_us + tokens * tower.us_per_token // 2 - 1)
    error = caller.add(range(5000, 6000), late)()
    assert isinstance(error, RejectedError)
    assert error.reason == "deadline"
    assert str(error).startswith("deadline cannot be met: ")
    assert len(tower.passes) <= before + 1
    assert isinstance(caller.add([1], late)(), tuple)


def test_nothing_is_rejected_for_what_only_might_be_late(caller, tower):
    tower.us_per_token = 1000
    tower.let_run()
    caller.add(range(WARM_UP))()
    tower.us_per_token = 500  # the machine is idle again
    times = Times(tower.now_us, S, tower.now_us + 1000 * TOKENS * 500 + 1)
    assert numbers_of(caller.add(range(5000, 6000), times)()) == list(range(5000, 6000))


def test_new_instance_rejects_nothing_for_its_rate(caller, tower):
    tower.us_per_token = TURN_US  # cold: far slower than later
    tower.let_run()
    caller.add([1])()
    tower.us_per_token = 100
    times = Times(tower.now_us, S, tower.now_us + 60 * S)
    assert numbers_of(caller.add(range(5000, 6000), times)()) == list(range(5000, 6000))


def test_request_whose_deadline_passes_is_dropped_and_keeps_what_it_encoded(caller, tower):
    times = Times(0, S, 20_000)
    error = caller.add(range(1000), times)
    tower.let_run()
    assert "deadline" in str(error())
    done = sum(tower.passes, [])
    assert 0 < len(done) < 1000
    assert numbers_of(caller.add(done)()) == done
    assert sum(tower.passes, []) == done


def test_request_that_waited_too_long_before_its_first_turn_is_rejected(caller, tower):
    tower.now_us = 10 * S
    error = caller.add([1], Times(0, 5 * S, 60 * S))()
    assert isinstance(error, RejectedError)
    assert error.reason == "overload"
    assert tower.passes == []


def test_cancelled_request_ends(caller, tower):
    error = caller.add(range(1000), is_cancelled=lambda: len(tower.passes) > 1)
    tower.let_run()
    assert "the caller cancelled the request" in str(error())
    assert len(tower.passes) == 2


def test_failed_pass_fails_its_requests_and_no_later_one(caller, tower):
    tower.fault = MemoryError("too much")
    error = caller.add(range(100))
    tower.let_run()
    assert isinstance(error(), MemoryError)
    tower.fault = None
    assert numbers_of(caller.add([1, 2])()) == [1, 2]


def test_embedding_that_is_not_finite_is_an_error_and_is_not_cached(caller, tower, monkeypatch):
    real = tower.encode
    monkeypatch.setattr(
        caller.turns, "_encode", lambda ids: np.where(real(ids) == 2, np.float32(np.nan), real(ids))
    )
    tower.let_run()
    error = caller.add([1, 2, 3])()
    assert isinstance(error, EmbeddingError)
    assert "label 1" in str(error)
    assert b"label 1" in caller.cache
    assert b"label 2" not in caller.cache


def test_closing_finishes_the_jobs():
    tower = Tower()
    cache = LabelCache(0, DIM)
    turns = Turns(tower.tokenize, tower.encode, cache, 64, lambda *_: None, clock=lambda: tower.now_us)
    wait = Caller(turns, cache).add(range(100))
    tower.let_run()
    turns.close()
    assert numbers_of(wait()) == list(range(100))
