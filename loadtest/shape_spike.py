"""The shape `spike`: few users, then suddenly many, then few again, to see how the server recovers."""

from __future__ import annotations

from locust import LoadTestShape

from load_settings import LoadSettings
from load_stages import users_at


class SpikeShape(LoadTestShape):
    """The stages of TRITONCLIP_LOAD_SPIKE, each reached at once."""

    stages = LoadSettings.from_env().spike

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many to start a second; None at the end."""
        users = users_at(self.stages, self.get_run_time())
        return None if users is None else (users, float(users))
