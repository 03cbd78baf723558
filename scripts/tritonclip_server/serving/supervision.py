"""When a supervised server is to be restarted, and when to give up: rules without input, output or clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tritonclip import Health


@dataclass(frozen=True, kw_only=True)
class SupervisorOptions:
    """How closely to watch a server.

    By default one that answers nothing is restarted after 27 s at the latest, before callers give up who wait
    as long as the client does by default.

    Attributes:
        interval_s: Seconds between two probes.
        probe_timeout_s: How long a probe may take.
        failures: So many probes in a row must fail before a restart.
        stall_s: How long requests may wait inside while nothing is finished.
        max_restarts: Give up where a restart more is needed within `window_s`.
        window_s: See `max_restarts`.
        first_delay_s: Before the second restart of a window; then twice as long each time.
        max_delay_s: The longest delay.
    """

    interval_s: float = 3.0
    probe_timeout_s: float = 6.0
    failures: int = 3
    stall_s: float = 60.0
    max_restarts: int = 5
    window_s: float = 600.0
    first_delay_s: float = 1.0
    max_delay_s: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a probe found.

    Attributes:
        at_s: When it ended, in seconds of a steady clock.
        health: What the server said; None if it did not answer.
        reason: Why it did not.
        moves: Work is inside, and every model that had some at the last probe has finished some since.
    """

    at_s: float
    health: Health | None
    reason: str = ""
    moves: bool = False

    @property
    def busy(self) -> bool:
        """The server is there, but was too busy for the probe."""
        return self.health is not None and self.health.inference in ("overloaded", "timeout")


class Judge:
    """Tells from one probe after another whether a server is to be restarted.

    Restarting a server that is only overloaded makes matters worse. One that refuses the probe for its load,
    or does not answer it in time, is alive as long as its models finish what they have.

    Args:
        options: How many failures, and how long a standstill, to bear.
        now_s: When the server was ready.
    """

    def __init__(self, options: SupervisorOptions, now_s: float) -> None:
        self._options = options
        self._failures = 0
        self._moved_s = now_s

    def reason(self, probe: Probe) -> str | None:
        """Why to restart the server, or None."""
        if probe.busy:
            return self._standstill(probe)
        if probe.health is not None and probe.health.ok:
            self._failures, self._moved_s = 0, probe.at_s
            return None
        self._failures += 1
        if self._failures < self._options.failures:
            return None
        return f"{self._failures} probes in a row failed, the last one so: {_text(probe)}"

    def _standstill(self, probe: Probe) -> str | None:
        self._failures = 0
        if probe.moves:
            self._moved_s = probe.at_s
        still_s = probe.at_s - self._moved_s
        if still_s < self._options.stall_s:
            return None
        return f"requests wait and none was finished for {still_s:.0f} s, the last probe so: {_text(probe)}"


def _text(probe: Probe) -> str:
    if probe.health is None:
        return probe.reason
    return probe.health.reason or f"not ready: {probe.health}"


class RestartPolicy:
    """How long to wait before the next restart; each within a window waits longer than the one before.

    Args:
        options: The limits.
    """

    def __init__(self, options: SupervisorOptions) -> None:
        self._options = options
        self._restarts: deque[float] = deque()

    @property
    def count(self) -> int:
        """Restarts within the window, the one under way included."""
        return len(self._restarts)

    def next_delay_s(self, now_s: float) -> float | None:
        """Counts a restart, and gives how long to wait before it; None: give up.

        Args:
            now_s: Seconds of a steady clock.
        """
        while self._restarts and now_s - self._restarts[0] >= self._options.window_s:
            self._restarts.popleft()
        if self.count >= self._options.max_restarts:
            return None
        self._restarts.append(now_s)
        if self.count == 1:
            return 0.0
        return min(self._options.first_delay_s * 2.0 ** (self.count - 2), self._options.max_delay_s)
