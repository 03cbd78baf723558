"""Batches that end in time: leave out the requests of a batch whose answers would come too late.

An overloaded model has requests of all ages in its queue. If it works on all of them together, every answer
comes after its deadline. If it works on as many as it can finish in time, it answers at full capacity.

The estimate is a lower bound, so that no request is rejected for what might happen. It covers this batch
only, and uses the fastest batch so far: a cold start, a busy neighbour and a paused machine make batches
slower, never faster. It holds for work whose elements all cost the same, and does not extrapolate: a batch
that is larger than any before takes at least as long as the largest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol, TypeVar

from clip_common.groups import Outcome
from clip_common.times import RejectedError, Times, now_us

BATCHES_BEFORE = 8
"""Batches that a new instance runs before it trusts its rate."""


class TimedGroup(Protocol):
    """A request group with its times and its number of elements."""

    @property
    def times(self) -> Times:
        """Arrival time and limits of the request."""

    @property
    def size(self) -> int:
        """Images of the group."""


Group = TypeVar("Group", bound=TimedGroup)


class Pace:
    """The highest rate of a model instance.

    Args:
        clock: Returns the time in microseconds.
    """

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        self._clock = clock
        self._batches = 0
        self._us_per_element = inf
        self._largest = 0

    def run(self, groups: Sequence[Group], run: Callable[[list[Group]], Sequence[Outcome]]) -> list[Outcome]:
        """Run the groups that can be answered in time, and reject the others.

        Args:
            groups: The groups of a batch.
            run: Works on groups together and returns their outcomes.

        Returns:
            The outcome of each group, in order; RejectedError for those left out.
        """
        started_us = self._clock()
        chosen = self.choose(groups, started_us)
        kept = [group for group, is_chosen in zip(groups, chosen, strict=True) if is_chosen]
        outcomes = iter(run(kept) if kept else [])
        total = sum(group.size for group in kept)
        if total:
            self._batches += 1
            self._us_per_element = min(self._us_per_element, (self._clock() - started_us) / total)
            self._largest = max(self._largest, total)
        return [
            next(outcomes) if is_chosen else self._rejection(group, started_us)
            for group, is_chosen in zip(groups, chosen, strict=True)
        ]

    def choose(self, groups: Sequence[Group], now: int) -> list[bool]:
        """Choose the largest set of groups that one batch can finish before the deadline of each.

        Args:
            groups: The groups of a batch.
            now: The clock's time.

        Returns:
            A flag for each group, true if it is in the set. Groups with later deadlines are preferred.
        """
        if self._batches < BATCHES_BEFORE:
            return [True] * len(groups)
        chosen, total = [False] * len(groups), 0
        for index in sorted(range(len(groups)), key=lambda index: -groups[index].times.deadline_us):
            needed_us = min(total + groups[index].size, self._largest) * self._us_per_element
            if now + needed_us <= groups[index].times.deadline_us:
                chosen[index] = True
                total += groups[index].size
        return chosen

    def _rejection(self, group: Group, now: int) -> RejectedError:
        times = group.times
        return RejectedError(
            "deadline",
            f"deadline cannot be met: the request has waited {times.waited_ms(now):.0f} ms, and its batch "
            f"would end too late; its caller allowed {times.allowed_ms:.0f} ms (deadline_ms)",
        )
