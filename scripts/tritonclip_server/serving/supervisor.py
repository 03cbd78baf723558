"""Watch a running server with true inferences, and restart it when it is dead or stuck.

Triton 2.51 does not restart the Python process of a model, and its own health stays green without it.
`ProbeHistory` and `RestartBackoff` hold the rules, without input, output or clock. `Supervisor` probes,
kills and starts.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError
from tritonclip_server.serving.metrics import ModelProgress, is_progressing
from tritonclip_server.serving.probe import ProbeResult, probe
from tritonclip_server.serving.processes import is_running

PROCESS_CHECK_INTERVAL_S = 0.1
"""Time between two looks at the server's processes, which cost next to nothing."""


class GaveUpError(RuntimeError):
    """The server had to be restarted too often; the text gives the limits and the last reason."""


@dataclass(frozen=True, kw_only=True)
class SupervisorOptions:
    """Intervals and limits of a supervisor.

    By default a server that does not answer at all is restarted after at most 27 s. Callers with the
    client's default timeout are still waiting then.

    Attributes:
        interval_s: Time between two probes, in seconds.
        probe_timeout_s: Time limit of a probe, in seconds.
        failures: Number of consecutive failed probes that leads to a restart.
        stall_s: Time without a finished request, while some are queued, that leads to a restart, in seconds.
        max_restarts: Largest number of restarts within `window_s`; the supervisor gives up when more are
            needed.
        window_s: See `max_restarts`; in seconds.
        first_delay_s: Delay before the second restart within a window, in seconds; it doubles each time.
        max_delay_s: Longest delay before a restart, in seconds.
    """

    interval_s: float = 3.0
    probe_timeout_s: float = 6.0
    failures: int = 3
    stall_s: float = 60.0
    max_restarts: int = 5
    window_s: float = 600.0
    first_delay_s: float = 1.0
    max_delay_s: float = 30.0


class ProbeHistory:
    """Decides from consecutive probes if a server must be restarted.

    To restart a server that is only overloaded would make matters worse. One that rejects the probe because
    of its load, or does not answer it in time, is alive as long as its models finish requests.

    Args:
        options: The limits.
        now_s: Time at which the server became ready, in seconds of a monotonic clock.
    """

    def __init__(self, options: SupervisorOptions, now_s: float) -> None:
        self._options = options
        self._failures = 0
        self._last_progress_s = now_s

    def add(self, result: ProbeResult, now_s: float, *, progressing: bool) -> str | None:
        """Add a probe, and return the reason to restart the server, or None.

        Args:
            result: Outcome of the probe.
            now_s: Time at which it ended, in seconds of a monotonic clock.
            progressing: True if requests are in flight and every model finished some since the last probe.
        """
        if result.is_busy:
            return self._stall(result, now_s, progressing)
        if result.outcome == "ok":
            self._failures, self._last_progress_s = 0, now_s
            return None
        self._failures += 1
        if self._failures < self._options.failures:
            return None
        return f"{self._failures} consecutive probes failed; last error: {result.reason}"

    def _stall(self, result: ProbeResult, now_s: float, progressing: bool) -> str | None:
        self._failures = 0
        if progressing:
            self._last_progress_s = now_s
        stalled_s = now_s - self._last_progress_s
        if stalled_s < self._options.stall_s:
            return None
        return (
            f"no request completed in the last {stalled_s:.0f} s although requests are queued; "
            f"last probe: {result.reason}"
        )


class RestartBackoff:
    """Decides how long to wait before the next restart; the delay doubles within a window.

    Args:
        options: The limits.
    """

    def __init__(self, options: SupervisorOptions) -> None:
        self._options = options
        self._restarts: deque[float] = deque()

    @property
    def count(self) -> int:
        """Number of restarts within the window, including the current one."""
        return len(self._restarts)

    def next_delay_s(self, now_s: float) -> float | None:
        """Count a restart, and return the delay before it in seconds, or None to give up.

        Args:
            now_s: Seconds of a monotonic clock.
        """
        while self._restarts and now_s - self._restarts[0] >= self._options.window_s:
            self._restarts.popleft()
        if self.count >= self._options.max_restarts:
            return None
        self._restarts.append(now_s)
        if self.count == 1:
            return 0.0
        return min(self._options.first_delay_s * 2.0 ** (self.count - 2), self._options.max_delay_s)


class Supervisor:
    """Keeps a started server running.

    Args:
        server: A server that is ready.
        options: Intervals and limits.
        report: Called with each line for the log.
    """

    def __init__(
        self, server: EmbeddedTriton, options: SupervisorOptions, report: Callable[[str], None]
    ) -> None:
        self._server = server
        self._options = options
        self._report = report
        self._backoff = RestartBackoff(options)
        self._progress: dict[str, ModelProgress] = {}
        self._pool = ThreadPoolExecutor(1)  # so that a slow probe does not delay the look at the processes

    def run(self) -> None:
        """Watch and restart the server until the limit of restarts is reached.

        Raises:
            GaveUpError: The server has been stopped.
        """
        while True:
            self._restart(self._watch())

    def _watch(self) -> str:
        """Wait until the server must be restarted, and return the reason."""
        history, self._progress = ProbeHistory(self._options, time.monotonic()), {}
        stubs = self._server.stubs()
        pending: Future[str | None] | None = None
        next_probe_s = time.monotonic() + self._options.interval_s
        while (reason := _exited(self._server, stubs)) is None:
            if pending is None and time.monotonic() >= next_probe_s:
                pending = self._pool.submit(self._probe, history)
            elif pending is not None and pending.done():
                if (reason := pending.result()) is not None:
                    break
                pending, next_probe_s = None, time.monotonic() + self._options.interval_s
            time.sleep(PROCESS_CHECK_INTERVAL_S)
        return reason

    def _probe(self, history: ProbeHistory) -> str | None:
        """Probe the server, and return the reason to restart it, or None."""
        result = probe(self._server.probe_url, self._options.probe_timeout_s)
        progressing = result.outcome != "failed" and self._is_progressing()
        return history.add(result, time.monotonic(), progressing=progressing)

    def _is_progressing(self) -> bool:
        before, self._progress = self._progress, {}
        with contextlib.suppress(OSError):  # a server without metrics may answer all the same
            self._progress = self._server.progress(self._options.probe_timeout_s)
        return is_progressing(before, self._progress)

    def _restart(self, reason: str) -> None:
        """Kill the server and what is left of it, and start it until it is ready.

        Raises:
            GaveUpError: The limit of restarts is reached.
        """
        while True:
            self._report(f"the server must be restarted: {reason}")
            self._server.kill()
            began_s = time.monotonic()
            delay_s = self._backoff.next_delay_s(began_s)
            if delay_s is None:
                limits = f"{self._options.max_restarts} restarts within {self._options.window_s:.0f} s"
                raise GaveUpError(f"gave up after {limits}; the last reason: {reason}")
            time.sleep(delay_s)
            try:
                self._server.start()
            except LaunchError as error:
                reason = str(error)
                continue
            took_s = time.monotonic() - began_s
            self._report(
                f"ready again after {took_s:.1f} s; restarts in the last {self._options.window_s:.0f} s: "
                f"{self._backoff.count}"
            )
            return


def _exited(server: EmbeddedTriton, stubs: dict[int, str]) -> str | None:
    """Name the processes of the server that exited, or return None."""
    if server.exit_code is not None:
        return f"tritonserver exited with code {server.exit_code}"
    dead = [f"{model} ({pid})" for pid, model in stubs.items() if not is_running(pid)]
    return f"the process of {', '.join(dead)} is gone" if dead else None
