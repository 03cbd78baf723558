"""The course of the load for locust's closed loop: users over time."""

from __future__ import annotations

from locust import LoadTestShape

from .settings import LoadSettings, users_at


class StagesShape(LoadTestShape):
    """The stages of TRITONCLIP_LOAD_STAGES, each reached at once."""

    stages = LoadSettings.from_env().stages

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many to start a second; None at the end."""
        users = users_at(self.stages, self.get_run_time())
        return None if users is None else (users, float(users))


class SpikeShape(LoadTestShape):
    """The stages of TRITONCLIP_LOAD_SPIKE, each reached at once."""

    stages = LoadSettings.from_env().spike

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many to start a second; None at the end."""
        users = users_at(self.stages, self.get_run_time())
        return None if users is None else (users, float(users))
