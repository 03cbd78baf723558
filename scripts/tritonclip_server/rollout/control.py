"""Control a running server during a rollout: load models, list ready versions, wait for requests.

It uses Triton's HTTP with the admin key. If gRPC has TLS, HTTP is bound to loopback.
"""

from __future__ import annotations

import time
import urllib.request
from types import TracebackType
from typing import Any

import tritonclient.http
from tritonclient.utils import InferenceServerException

from tritonclip_server.repository.configs import ENSEMBLES, PYTHON_MODELS
from tritonclip_server.serving.metrics import read_progress, total_in_flight
from tritonclip_server.serving.release import ADMIN_HEADER

POLL_S = 0.1
DRAINED_AFTER_S = 0.5
"""Time without a request in flight after which a version counts as drained."""
METRICS_TIMEOUT_S = 10.0


class RolloutError(RuntimeError):
    """A rollout that failed or was undone; the text gives the reason and the served version."""


class ServerControl:
    """Connection to the server that reads the repository; a context manager.

    Args:
        url: HTTP address of the server, without a scheme.
        metrics_url: Address of its metrics.
        admin_key: Key of its closed endpoints.
        timeout_s: Time limit for loading a model, in seconds.
    """

    def __init__(self, url: str, metrics_url: str, admin_key: str, timeout_s: float) -> None:
        self._client = tritonclient.http.InferenceServerClient(
            url, connection_timeout=timeout_s, network_timeout=timeout_s
        )
        self._url, self._metrics_url = url, metrics_url
        self._headers = {ADMIN_HEADER: admin_key}

    @property
    def client(self) -> Any:
        """Client for requests to a version of a model."""
        return self._client

    def __enter__(self) -> ServerControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def ready(self) -> dict[str, set[int]]:
        """Return the ready versions of each model.

        Raises:
            RolloutError: The server does not answer, or the key is wrong.
        """
        try:
            index = self._client.get_model_repository_index(headers=self._headers)
        except InferenceServerException as error:
            raise RolloutError(
                f"{self._url}: {error.message()}; give the admin key of this server (TRITONCLIP_ADMIN_KEY)"
            ) from error
        except OSError as error:
            raise RolloutError(f"no server answers at {self._url}: {error}") from error
        found: dict[str, set[int]] = {model: set() for model in (*PYTHON_MODELS, *ENSEMBLES)}
        for entry in index:
            if entry.get("state") == "READY" and entry["name"] in found:
                found[entry["name"]].add(int(entry["version"]))
        return found

    def load(self, model: str) -> None:
        """Have the server read a model's configuration, and load and unload versions accordingly.

        Raises:
            RolloutError: The load failed; the previous version keeps serving.
        """
        try:
            self._client.load_model(model, headers=self._headers)
        except InferenceServerException as error:
            text = error.message() or ""
            hint = "; start it with --model-control explicit" if "explicit" in text else ""
            raise RolloutError(f"{model} cannot be loaded: {text.strip()}{hint}") from error
        except OSError as error:
            raise RolloutError(f"{model} cannot be loaded: {error}") from error

    def drain(self, version: int, timeout_s: float) -> bool:
        """Wait until a version has no request in flight; return False if the time limit is over first."""
        deadline, before = time.monotonic() + timeout_s, None
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            now = read_progress(self._metrics(), version)
            if now != before or total_in_flight(now):
                quiet_since, before = time.monotonic(), now
            if time.monotonic() - quiet_since >= DRAINED_AFTER_S:
                return True
            time.sleep(POLL_S)
        return False

    def _metrics(self) -> str:
        try:
            with urllib.request.urlopen(
                f"http://{self._metrics_url}/metrics", timeout=METRICS_TIMEOUT_S
            ) as reply:
                return str(reply.read().decode())
        except OSError as error:
            raise RolloutError(
                f"cannot read metrics from {self._metrics_url} ({error}): give --metrics-url"
            ) from error
