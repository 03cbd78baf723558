"""Open-loop load: requests arrive by the clock, as a Poisson process, and each is timed from when it was due.

A closed loop stops asking while the server is slow, and so leaves out the worst waits (coordinated omission).
Here no request waits for another: each has a greenlet of its own, which serves again when it is free.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import gevent
from gevent.pool import Group
from gevent.queue import Queue

from .answers import FirstAnswers
from .calls import Caller, Outcome, perform
from .settings import LoadSettings
from .step import Step, summarize
from .workload import Job

DRAIN_MARGIN_S = 5.0

OnOutcome = Callable[[Outcome], None]


def arrival_offsets(rng: random.Random, rate: float, duration_s: float) -> Iterator[float]:
    """The times of a Poisson process of `rate` a second, in seconds from its start."""
    offset = rng.expovariate(rate)
    while offset < duration_s:
        yield offset
        offset += rng.expovariate(rate)


class Crew:
    """Greenlets that make calls: one for each call at a time, used again after it.

    Args:
        open_caller: Gives each greenlet its caller.
        answers: First answers.
        on_outcome: Is told of every outcome.
        max_in_flight: So many calls at the same time, and no more.
    """

    def __init__(
        self,
        open_caller: Callable[[], Caller],
        answers: FirstAnswers,
        on_outcome: OnOutcome,
        max_in_flight: int,
    ) -> None:
        self._open_caller = open_caller
        self._answers = answers
        self._on_outcome = on_outcome
        self._max_in_flight = max_in_flight
        self._greenlets = Group()
        self._queue: Queue = Queue()
        self._idle = 0
        self.in_flight = 0

    def submit(self, job: Job, due_s: float, keep: Callable[[Outcome, float], None]) -> bool:
        """Start a call; False if too many are under way.

        Args:
            job: What to ask.
            due_s: `perf_counter` at which it is due.
            keep: Is told of the outcome, and by how many milliseconds the call started late.
        """
        if self.in_flight >= self._max_in_flight:
            return False
        self.in_flight += 1
        if self._idle:
            self._idle -= 1
        else:
            self._greenlets.spawn(self._work)
        self._queue.put((job, due_s, keep))
        return True

    def drain(self, limit_s: float) -> None:
        """Wait until no call is under way, or the time is over."""
        end_s = time.perf_counter() + limit_s
        while self.in_flight and time.perf_counter() < end_s:
            gevent.sleep(0.01)

    def close(self) -> None:
        """End all greenlets; each closes its caller."""
        self._greenlets.kill()

    def _work(self) -> None:
        caller = self._open_caller()
        try:
            while True:
                job, due_s, keep = self._queue.get()
                started_late_ms = (time.perf_counter() - due_s) * 1000
                outcome = perform(caller, job, self._answers, due_s)
                self._on_outcome(outcome)
                keep(outcome, started_late_ms)
                self.in_flight -= 1
                self._idle += 1
        finally:
            caller.close()


def run_step(
    crew: Crew, jobs: Iterator[Job], rng: random.Random, rate: float, settings: LoadSettings
) -> Step:
    """Offer a rate for a warm-up and a measured part, wait for the answers, and give the measured figures."""
    outcomes: list[Outcome] = []
    starts_ms: list[float] = []
    unsent = 0

    def keep(outcome: Outcome, started_late_ms: float) -> None:
        outcomes.append(outcome)
        starts_ms.append(started_late_ms)

    begin_s = time.perf_counter()
    for offset_s in arrival_offsets(rng, rate, settings.warmup_s + settings.measure_s):
        sleep_until(begin_s + offset_s)
        is_measured = offset_s >= settings.warmup_s
        if not crew.submit(next(jobs), begin_s + offset_s, keep if is_measured else _forget):
            unsent += is_measured
    crew.drain(settings.deadline_s + DRAIN_MARGIN_S)
    return summarize(outcomes, rate=rate, measure_s=settings.measure_s, unsent=unsent, starts_ms=starts_ms)


def sleep_until(time_s: float) -> None:
    """Let others run until `perf_counter` is there, and once at least."""
    gevent.sleep(0)
    while (left_s := time_s - time.perf_counter()) > 0:
        gevent.sleep(left_s)  # may end early: gevent counts from when its loop last looked at the clock


def _forget(outcome: Outcome, started_late_ms: float) -> None:
    """The warm-up is not measured."""
