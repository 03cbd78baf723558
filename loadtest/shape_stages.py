"""The shape `stages`: so many users for so long, then the next stage."""

from __future__ import annotations

from locust import LoadTestShape

from load_settings import LoadSettings
from load_stages import users_at


class StagesShape(LoadTestShape):
    """The stages of TRITONCLIP_LOAD_STAGES, each reached at once."""

    stages = LoadSettings.from_env().stages

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many to start a second; None at the end."""
        users = users_at(self.stages, self.get_run_time())
        return None if users is None else (users, float(users))
