"""The shape `overload`: a multiple of a rate; tells what was accepted, what refused, and how fast each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gevent
import urllib3

from .settings import LoadSettings
from .step import Step, step_line

SAMPLE_S = 1.0
_PENDING = re.compile(
    r'^nv_inference_pending_request_count\{[^}]*model="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE
)


class PendingRequests:
    """Samples how many requests wait in each model's queue, once a second.

    Args:
        url: Of Triton's metrics.
    """

    def __init__(self, url: str) -> None:
        self.greatest: dict[str, float] = {}
        self._url = metrics_address(url)
        self._pool = urllib3.PoolManager(retries=False, timeout=SAMPLE_S)
        self._greenlet = gevent.spawn(self._watch)

    def stop(self) -> dict[str, float]:
        """End, and give the greatest number seen for each model."""
        self._greenlet.kill()
        self._pool.clear()
        return self.greatest

    def _watch(self) -> None:
        while True:
            try:
                text = self._pool.request("GET", self._url).data.decode()
            except urllib3.exceptions.HTTPError:
                text = ""  # one sample less
            for model, count in parse_pending(text).items():
                self.greatest[model] = max(count, self.greatest.get(model, 0.0))
            gevent.sleep(SAMPLE_S)


def metrics_address(url: str) -> str:
    """`host:port` or a whole URL to the URL of the metrics."""
    with_scheme = url if "://" in url else f"http://{url}"
    return with_scheme if with_scheme.endswith("/metrics") else f"{with_scheme.rstrip('/')}/metrics"


def parse_pending(metrics: str) -> dict[str, float]:
    """Waiting requests by model, from metrics in Prometheus' text form."""
    return {model: float(count) for model, count in _PENDING.findall(metrics)}


def overload(
    offer: Callable[[float], Step], settings: LoadSettings, echo: Callable[[str], None]
) -> dict[str, Any]:
    """Run one step at the multiple of the rate, watching the queues where the metrics' address is given.

    Args:
        offer: Runs one step at a rate.
        settings: Rate, multiple, address of the metrics.
        echo: Prints a line.
    """
    rate = settings.rate * settings.multiple
    echo(f"overload: {settings.multiple:g} times {settings.rate:g} requests/s for {settings.measure_s:g} s")
    watch = PendingRequests(settings.metrics_url) if settings.metrics_url else None
    step = offer(rate)
    pending = watch.stop() if watch else None
    echo(step_line(step, ""))
    echo(
        f"goodput {step.goodput:.2f}/s  refused {step.refused} (p99 {step.refused_p99_ms:.1f} ms)  "
        f"deadline {step.late}  wrong {step.wrong}  error {step.error}  unsent {step.unsent}"
    )
    if pending is not None:
        echo(
            "most requests waiting: " + ", ".join(f"{model} {count:.0f}" for model, count in pending.items())
        )
    return {"shape": "overload", **step.figures(), "pending_max": pending}
