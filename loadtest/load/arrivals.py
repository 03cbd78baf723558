"""Open-loop load: requests arrive as a Poisson process, and latency counts from when each request was due.

A closed loop sends fewer requests while the server is slow, and so misses the longest waits (coordinated
omission). Here no request waits for another. Each runs in a greenlet, and finished greenlets are reused.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import gevent
from gevent.pool import Group
from gevent.queue import Queue

from .answers import FirstAnswers
from .callers import Caller
from .outcomes import Outcome, perform
from .settings import LoadSettings
from .step import StepResult, summarize
from .workload import Job

DRAIN_MARGIN_S = 5.0

OnOutcome = Callable[[Outcome], None]


def arrival_offsets(rng: random.Random, rate: float, duration_s: float) -> Iterator[float]:
    """Yield the arrival times of a Poisson process of `rate` per second, in seconds from its start."""
    offset = rng.expovariate(rate)
    while offset < duration_s:
        yield offset
        offset += rng.expovariate(rate)


class GreenletPool:
    """Greenlets that make calls, each one call at a time.

    Args:
        open_caller: Creates the caller of each greenlet.
        answers: First answers to compare with.
        on_outcome: Receives every outcome.
        max_in_flight: Limit of concurrent calls.
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

    def submit(self, job: Job, due_s: float, on_result: Callable[[Outcome, float], None]) -> bool:
        """Start a call, or return False if too many are in flight.

        Args:
            job: The request.
            due_s: `perf_counter` value at which it is due.
            on_result: Receives the outcome, and the delay of the call's start in milliseconds.
        """
        if self.in_flight >= self._max_in_flight:
            return False
        self.in_flight += 1
        if self._idle:
            self._idle -= 1
        else:
            self._greenlets.spawn(self._work)
        self._queue.put((job, due_s, on_result))
        return True

    def drain(self, limit_s: float) -> None:
        """Wait until no call is in flight, at most `limit_s` seconds."""
        end_s = time.perf_counter() + limit_s
        while self.in_flight and time.perf_counter() < end_s:
            gevent.sleep(0.01)

    def close(self) -> None:
        """Stop all greenlets, which close their callers."""
        self._greenlets.kill()

    def _work(self) -> None:
        caller = self._open_caller()
        try:
            while True:
                job, due_s, on_result = self._queue.get()
                start_delay_ms = (time.perf_counter() - due_s) * 1000
                outcome = perform(caller, job, self._answers, due_s)
                self._on_outcome(outcome)
                on_result(outcome, start_delay_ms)
                self.in_flight -= 1
                self._idle += 1
        finally:
            caller.close()


def run_step(
    pool: GreenletPool, jobs: Iterator[Job], rng: random.Random, rate: float, settings: LoadSettings
) -> StepResult:
    """Offer a rate for a warm-up and a measured period, and return the figures of the measured period."""
    outcomes: list[Outcome] = []
    start_delays_ms: list[float] = []
    unsent = 0

    def keep(outcome: Outcome, start_delay_ms: float) -> None:
        outcomes.append(outcome)
        start_delays_ms.append(start_delay_ms)

    begin_s = time.perf_counter()
    for offset_s in arrival_offsets(rng, rate, settings.warmup_s + settings.measure_s):
        sleep_until(begin_s + offset_s)
        is_measured = offset_s >= settings.warmup_s
        if not pool.submit(next(jobs), begin_s + offset_s, keep if is_measured else _ignore):
            unsent += is_measured
    pool.drain(settings.deadline_s + DRAIN_MARGIN_S)
    return summarize(
        outcomes,
        rate=rate,
        measure_s=settings.measure_s,
        unsent=unsent,
        start_delays_ms=start_delays_ms,
    )


def sleep_until(time_s: float) -> None:
    """Run other greenlets at least once, and until `perf_counter` reaches `time_s`."""
    gevent.sleep(0)
    while (left_s := time_s - time.perf_counter()) > 0:
        gevent.sleep(left_s)  # may return early: gevent counts from its loop's last look at the clock


def _ignore(outcome: Outcome, start_delay_ms: float) -> None:
    """Ignore an outcome of the warm-up."""
