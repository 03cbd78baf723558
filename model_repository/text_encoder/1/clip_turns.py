"""Large requests share the text tower in turns, so that none of them delays the others.

A turn works for about half a second: it converts a bounded number of bytes to tokens and encodes a bounded
number of tokens, in equal parts for all requests that wait. A request that cannot be finished in time is
rejected as soon as that is certain.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np

from clip_cache import LabelCache
from clip_common.groups import Elements, check_finite
from clip_common.times import RejectedError, cancelled, now_us
from clip_labels import Tokens

TURN_US = 500_000
"""Longest time of a turn's pass through the tower, by the rate of the turn before."""
TURN_BYTES = 32_768
"""Bytes of text that a turn converts to tokens, less than 0.2 s on a CPU."""
FIRST_TOKENS = 128
"""Tokens of the first turn, whose rate is not known yet."""
LEAST_TOKENS = 32
FULL_TURN = 0.75
"""Share of a turn's tokens from which on its rate counts."""
TURNS_BEFORE = 8
"""Full turns of a new instance before it rejects requests by its rate."""
HEADROOM = 2
"""Factor by which the tower may become faster than it ever was."""


Tokenize = Callable[[Sequence[str]], list[Tokens]]
EncodeTokens = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Encodes int32 [tokens] each -> float32 [n, dim], unit L2 norm."""


class Answer(NamedTuple):
    """The result for one request."""

    embeds: np.ndarray
    """float32 [n, dim], unit L2 norm."""
    token_counts: np.ndarray
    """int32 [n]."""
    worked_us: int
    """Time since the first turn of the request."""


@dataclass(eq=False)
class Job:
    """A request whose new labels are encoded in turns.

    Attributes:
        group: The request.
        finish: Takes the answer, or the error that ends the request.
        embeds: float32 [n, dim], with the embeddings of cached labels.
        token_counts: int32 [n], with the counts of cached labels.
        missing: Positions of the labels that were not cached.
    """

    group: Elements
    finish: Callable[[Answer | Exception], None]
    embeds: np.ndarray
    token_counts: np.ndarray
    missing: list[int]
    untokenized: deque[bytes] = field(init=False)
    tokenized: deque[tuple[bytes, Tokens]] = field(default_factory=deque, init=False)
    tokens_left: int = field(default=0, init=False)
    """Tokens of `tokenized`."""
    found: dict[bytes, tuple[np.ndarray, int]] = field(default_factory=dict, init=False)
    started_us: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """List the distinct labels to encode."""
        self.untokenized = deque(dict.fromkeys(self.group.items[index] for index in self.missing))

    @property
    def is_complete(self) -> bool:
        """True if every label is encoded."""
        return not self.untokenized and not self.tokenized

    def check(self, now: int, us_per_token: float) -> None:
        """Check that the request can still be answered in time.

        Raises:
            RejectedError: It has waited too long, its caller has gone, or it cannot be answered in time.
        """
        times = self.group.times
        if self.started_us is None or now > times.deadline_us:
            times.check(now)
        if self.started_us is None:
            self.started_us = now
        if now + self.tokens_left * us_per_token / HEADROOM > times.deadline_us:
            raise RejectedError(
                "deadline",
                f"deadline cannot be met: {self.tokens_left} tokens remain to be encoded after "
                f"{times.waited_ms(now):.0f} ms; the caller allowed {times.allowed_ms:.0f} ms (deadline_ms)",
            )
        if self.group.is_cancelled():
            raise cancelled()

    def tokenize(self, tokenize: Tokenize, max_bytes: int) -> None:
        """Convert further labels to tokens, up to the one that reaches `max_bytes`."""
        labels: list[bytes] = []
        total = 0
        while self.untokenized and total < max_bytes:
            labels.append(self.untokenized.popleft())
            total += len(labels[-1])
        if labels:
            tokenized = tokenize([label.decode("utf-8") for label in labels])
            self.tokenized.extend(zip(labels, tokenized, strict=True))
            self.tokens_left += sum(len(tokens.ids) for tokens in tokenized)

    def take(self, max_tokens: int) -> dict[bytes, Tokens]:
        """Take labels to encode, up to the one that reaches `max_tokens`."""
        taken: dict[bytes, Tokens] = {}
        total = 0
        while self.tokenized and total < max_tokens:
            label, tokens = self.tokenized.popleft()
            taken[label] = tokens
            total += len(tokens.ids)
        self.tokens_left -= total
        return taken

    def answer(self, now: int) -> Answer:
        """Join the embeddings of all labels.

        Raises:
            EmbeddingError: One is not finite.
        """
        for index in self.missing:
            self.embeds[index], self.token_counts[index] = self.found[self.group.items[index]]
        check_finite("label", self.embeds, self.group.shape)
        return Answer(self.embeds, self.token_counts, now - (self.started_us or now))


class Turns:
    """Runs jobs in a thread, in turns.

    Args:
        tokenize: Converts texts to tokens.
        encode: Encodes tokens.
        cache: Receives the new embeddings.
        max_tokens: Tokens of the largest turn.
        on_encoded: Called after a turn with the numbers of labels encoded and evicted.
        clock: Returns the time in microseconds.
    """

    def __init__(
        self,
        tokenize: Tokenize,
        encode: EncodeTokens,
        cache: LabelCache,
        max_tokens: int,
        on_encoded: Callable[[int, int], None],
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._tokenize, self._encode, self._cache = tokenize, encode, cache
        self._max_tokens, self._on_encoded, self._clock = max_tokens, on_encoded, clock
        self._turn_tokens = min(FIRST_TOKENS, max_tokens)
        self._full_turns = 0
        self._us_per_token = inf
        """The lowest so far."""
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="turns", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Queue a job; its `finish` is called from the thread."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Finish all jobs and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                jobs = list(self._jobs)
            self._turn(jobs)

    def _turn(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if self._prepare(job, TURN_BYTES // len(jobs))]
        ready = [job for job in jobs if not job.untokenized]
        taken: list[tuple[Job, dict[bytes, Tokens]]] = []
        total = 0
        for job in ready:
            if total >= self._turn_tokens:
                break
            part = job.take(max(1, self._turn_tokens // len(ready)))
            total += sum(len(tokens.ids) for tokens in part.values())
            taken.append((job, part))
        try:
            self._encode_taken(taken)
        except Exception as error:
            for job, _ in taken:
                self._end(job, error)
            return
        for job, _ in taken:
            if job.is_complete:
                self._complete(job)
            else:
                self._move_to_end(job)

    def _prepare(self, job: Job, max_bytes: int) -> bool:
        """Convert labels of a job to tokens; end the job and return False if it cannot be answered."""
        try:
            job.check(self._clock(), self._us_per_token if self._full_turns >= TURNS_BEFORE else 0)
            job.tokenize(self._tokenize, max_bytes)
        except Exception as error:
            self._end(job, error)
            return False
        return True

    def _encode_taken(self, taken: Sequence[tuple[Job, dict[bytes, Tokens]]]) -> None:
        """Encode each distinct label once, and give it to all jobs that took it."""
        distinct = {label: tokens for _, part in taken for label, tokens in part.items()}
        labels = list(distinct)
        embeds, token_counts, missing = self._cache.look_up(labels)  # other requests may have encoded some
        if len(missing):
            ids = [distinct[labels[index]].ids for index in missing]
            started_us = self._clock()
            embeds[missing] = self._encode(ids)
            self._measure(sum(map(len, ids)), self._clock() - started_us)
            token_counts[missing] = [distinct[labels[index]].total for index in missing]
            entries = [
                (labels[index], embeds[index], token_counts[index])
                for index in missing
                if np.isfinite(embeds[index]).all()
            ]
            self._on_encoded(len(missing), self._cache.add(entries))
        found = dict(zip(labels, zip(embeds, token_counts, strict=True), strict=True))
        for job, part in taken:
            job.found.update((label, found[label]) for label in part)

    def _measure(self, tokens: int, took_us: int) -> None:
        """Adapt the size of the next turn to the rate of this one, if it was full."""
        if tokens < FULL_TURN * self._turn_tokens:
            return
        us_per_token = max(took_us, 1) / tokens
        self._full_turns += 1
        self._us_per_token = min(self._us_per_token, us_per_token)
        self._turn_tokens = min(self._max_tokens, max(LEAST_TOKENS, int(TURN_US / us_per_token)))

    def _complete(self, job: Job) -> None:
        try:
            answer: Answer | Exception = job.answer(self._clock())
        except Exception as error:
            answer = error
        self._end(job, answer)

    def _move_to_end(self, job: Job) -> None:
        with self._changed:
            self._jobs.remove(job)
            self._jobs.append(job)

    def _end(self, job: Job, outcome: Answer | Exception) -> None:
        with self._changed:
            self._jobs.remove(job)
        job.finish(outcome)
