"""Thresholds of a run, and the check against them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import LoadSettings


@dataclass(frozen=True)
class RunFigures:
    """Figures of a run that the thresholds apply to.

    Attributes:
        requests: Number of completed requests.
        failed: Requests without the right answer. Under overload, rejections do not count as failures.
        wrong: Requests with a wrong answer.
        p99_ms: 99th percentile of the latencies of right answers; nan if there are none.
        rate: Right answers per second; for the shape `knee` the sustained rate.
    """

    requests: int
    failed: int
    wrong: int
    p99_ms: float
    rate: float


def missed_thresholds(settings: LoadSettings, figures: RunFigures) -> list[str]:
    """Return a line for each missed threshold, with its name, its limit and the measured figure."""
    found: list[str] = []
    if figures.wrong:
        found.append(f"wrong_answers: {figures.wrong}, none is allowed")
    if not figures.requests:
        found.append("requests: none was completed")
        return found
    share = figures.failed / figures.requests
    if not share <= settings.max_error_share:
        found.append(
            f"max_error_share: {figures.failed} of {figures.requests} requests failed, "
            f"over the limit of {settings.max_error_share:.2%}"
        )
    if settings.max_p99_ms is not None and not figures.p99_ms <= settings.max_p99_ms:
        found.append(f"max_p99_ms: {figures.p99_ms:.0f} ms, over the limit of {settings.max_p99_ms:g} ms")
    if settings.min_rate is not None and not figures.rate >= settings.min_rate:
        found.append(f"min_rate: {figures.rate:.2f}/s, under the limit of {settings.min_rate:g}/s")
    return found
