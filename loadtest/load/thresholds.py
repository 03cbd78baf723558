"""What is demanded of a run, and which demands it missed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import LoadSettings


@dataclass(frozen=True)
class Figures:
    """What the thresholds look at.

    Attributes:
        requests: All that were made.
        failed: Those without the right answer; under overload not the refusals, which are right then.
        wrong: Those with a wrong answer.
        p99_ms: Of the right answers; nan where there are none.
        rate: Right answers/s; of a knee, the rate that held.
    """

    requests: int
    failed: int
    wrong: int
    p99_ms: float
    rate: float


def missed(settings: LoadSettings, figures: Figures) -> list[str]:
    """The thresholds that were missed, each named, with its limit and what was found."""
    found: list[str] = []
    if figures.wrong:
        found.append(f"wrong_answers: {figures.wrong}, and none is ever right")
    if not figures.requests:
        found.append("requests: none was made to its end")
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
