"""Honest callers: they call without pause, check every answer, and know what they lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.helpers.waiting import wait_until

COUNT = 16
HOPELESS_S = 300.0
Call = Callable[[], str | None]
"""Makes one call and returns None, or what was wrong with it."""


@dataclass
class HonestCallers:
    """Threads that call without pause inside a `with` block.

    Args:
        connect: Returns the calls of one thread, given its number.

    Attributes:
        seconds: Duration of each call that was answered.
        lost: Number of calls by what was wrong with them.
    """

    connect: Callable[[int], Call]
    seconds: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> HonestCallers:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(COUNT)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: int) -> None:
        """Wait for so many further calls, answered or lost."""
        goal = self._calls() + answers
        wait_until(lambda: self._calls() >= goal, lambda: f"after {self._calls()} calls", HOPELESS_S)

    @property
    def p99_s(self) -> float:
        """99th percentile of the answered calls, in seconds."""
        return float(np.quantile(self.seconds, 0.99))

    def _calls(self) -> int:
        return len(self.seconds) + sum(self.lost.values())

    def _run(self, number: int) -> None:
        call = self.connect(number)
        while not self._ended.is_set():
            began = time.monotonic()
            wrong = call()
            if wrong is None:
                self.seconds.append(time.monotonic() - began)
            else:
                self.lost[wrong] += 1
                self._ended.wait(0.02)
