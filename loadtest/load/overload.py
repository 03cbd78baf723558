"""The shape `overload`: offer a multiple of a rate, and report answers, rejections and their latencies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gevent
import urllib3

from .settings import LoadSettings
from .step import StepResult, step_line

SAMPLE_S = 1.0
_PENDING = re.compile(
    r'^nv_inference_pending_request_count\{[^}]*model="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE
)


class PendingRequests:
    """Samples the number of pending requests of each model once per second.

    Args:
        url: Address of Triton's metrics.
    """

    def __init__(self, url: str) -> None:
        self.greatest: dict[str, float] = {}
        self._url = metrics_address(url)
        self._pool = urllib3.PoolManager(retries=False, timeout=SAMPLE_S)
        self._greenlet = gevent.spawn(self._watch)

    def stop(self) -> dict[str, float]:
        """Stop sampling, and return the greatest number of each model."""
        self._greenlet.kill()
        self._pool.clear()
        return self.greatest

    def _watch(self) -> None:
        while True:
            try:
                text = self._pool.request("GET", self._url).data.decode()
            except urllib3.exceptions.HTTPError:
                text = ""  # skip this sample
            for model, count in parse_pending(text).items():
                self.greatest[model] = max(count, self.greatest.get(model, 0.0))
            gevent.sleep(SAMPLE_S)


def metrics_address(url: str) -> str:
    """Convert `host:port` or a URL to the URL of the metrics."""
    with_scheme = url if "://" in url else f"http://{url}"
    return with_scheme if with_scheme.endswith("/metrics") else f"{with_scheme.rstrip('/')}/metrics"


def parse_pending(metrics: str) -> dict[str, float]:
    """Return the pending requests of each model, from metrics in Prometheus' text format."""
    return {model: float(count) for model, count in _PENDING.findall(metrics)}


def overload(
    offer: Callable[[float], StepResult], settings: LoadSettings, echo: Callable[[str], None]
) -> dict[str, Any]:
    """Run one step at the multiple of the rate, and sample the queues if the metrics' address is set.

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
        f"goodput {step.goodput:.2f}/s  rejected {step.rejected} (p99 {step.rejected_p99_ms:.1f} ms)  "
        f"deadline {step.late}  wrong {step.wrong}  error {step.error}  unsent {step.unsent}"
    )
    if pending is not None:
        echo(
            "most pending requests: " + ", ".join(f"{model} {count:.0f}" for model, count in pending.items())
        )
    return {"shape": "overload", **step.figures(), "pending_max": pending}
