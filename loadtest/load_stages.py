"""Numbers of users over time. Pure."""

from __future__ import annotations

from load_settings import Stages


def users_at(stages: Stages, time_s: float) -> int | None:
    """How many users there are so many seconds after the start; None after the last stage."""
    end_s = 0.0
    for users, duration_s in stages:
        end_s += duration_s
        if time_s < end_s:
            return users
    return None
