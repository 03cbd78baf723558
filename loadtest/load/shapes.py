"""Load shapes for locust's closed loop: numbers of users over time."""

from __future__ import annotations

from locust import LoadTestShape

from .settings import LoadSettings, users_at


class StagesShape(LoadTestShape):
    """The stages of TRITONCLIP_LOAD_STAGES, without ramps."""

    stages = LoadSettings.from_env().stages

    def tick(self) -> tuple[int, float] | None:
        """Return the current number of users and the spawn rate per second, or None at the end."""
        users = users_at(self.stages, self.get_run_time())
        return None if users is None else (users, float(users))


class SpikeShape(StagesShape):
    """The stages of TRITONCLIP_LOAD_SPIKE, without ramps."""

    stages = LoadSettings.from_env().spike
