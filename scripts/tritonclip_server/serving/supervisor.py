"""Watches a running server with true inferences, and restarts one that is dead or stuck.

Triton 2.51 does not restart the Python process of a model, and its own health stays green without it. What is
to be done when stands in `supervision.py`; this module looks, kills and starts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tritonclip import Client, TritonClipError
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError
from tritonclip_server.serving.metrics import Work, moves
from tritonclip_server.serving.processes import is_running
from tritonclip_server.serving.supervision import Judge, Probe, RestartPolicy, SupervisorOptions

LOOK_S = 0.1  # between two looks at the processes, which cost next to nothing


class GaveUpError(RuntimeError):
    """The server had to be restarted too often; the text says how often and why the last time."""


class Supervisor:
    """Keeps a server that was started alive.

    Args:
        server: A server that is ready.
        options: How closely to watch, and when to give up.
        say: Takes a line for the log.
    """

    def __init__(
        self, server: EmbeddedTriton, options: SupervisorOptions, say: Callable[[str], None]
    ) -> None:
        self._server = server
        self._options = options
        self._say = say
        self._policy = RestartPolicy(options)
        self._work: dict[str, Work] = {}
        self._pool = ThreadPoolExecutor(1)  # so that no probe keeps from looking at the processes

    def run(self) -> None:
        """Watches and restarts, until it gives up.

        Raises:
            GaveUpError: The server is not running any more.
        """
        while True:
            self._restart(self._watch())

    def _watch(self) -> str:
        """Returns why the server must be restarted, once it must."""
        judge, self._work = Judge(self._options, time.monotonic()), {}
        stubs = self._server.stubs()
        probing: Future[Probe] | None = None
        next_probe_s = time.monotonic() + self._options.interval_s
        while (reason := _gone(self._server, stubs)) is None:
            if probing is None and time.monotonic() >= next_probe_s:
                probing = self._pool.submit(self._probe)
            elif probing is not None and probing.done():
                if (reason := judge.reason(probing.result())) is not None:
                    break
                probing, next_probe_s = None, time.monotonic() + self._options.interval_s
            time.sleep(LOOK_S)
        return reason

    def _probe(self) -> Probe:
        limit_s = self._options.probe_timeout_s
        try:
            with Client(self._server.probe_url, timeout_s=limit_s, attempts=1) as client:
                health = client.health(deep=True)
        except TritonClipError as error:
            return Probe(at_s=time.monotonic(), health=None, reason=str(error))
        before, self._work = self._work, {}
        with contextlib.suppress(OSError):  # a server without metrics may answer all the same
            self._work = self._server.work(limit_s)
        return Probe(at_s=time.monotonic(), health=health, moves=moves(before, self._work))

    def _restart(self, reason: str) -> None:
        """Kills the server and what is left of it, and starts it until it is ready.

        Raises:
            GaveUpError: There were too many restarts.
        """
        while True:
            self._say(f"the server must be restarted: {reason}")
            self._server.kill()
            began_s = time.monotonic()
            delay_s = self._policy.next_delay_s(began_s)
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
            self._say(f"ready again after {took_s:.1f} s; {self._policy.count} restarts in the last while")
            return


def _gone(server: EmbeddedTriton, stubs: dict[int, str]) -> str | None:
    """Which process of the server is gone, or None."""
    if server.exit_code is not None:
        return f"tritonserver ended by itself with code {server.exit_code}"
    dead = [f"{model} ({pid})" for pid, model in stubs.items() if not is_running(pid)]
    return f"the process of {', '.join(dead)} is gone" if dead else None
