"""A running server's side of a rollout: it loads, tells what it has loaded, and what is inside which version.

By Triton's HTTP, which is on loopback where gRPC has TLS, with the admin key.
"""

from __future__ import annotations

import time
import urllib.request
from types import TracebackType
from typing import Any

import tritonclient.http
from tritonclient.utils import InferenceServerException

from tritonclip_server.repository.configs import ENSEMBLES, PYTHON_MODELS
from tritonclip_server.serving.metrics import inside, read_work
from tritonclip_server.serving.release import ADMIN_HEADER

POLL_S = 0.1
QUIET_S = 0.5
METRICS_TIMEOUT_S = 10.0


class RolloutError(RuntimeError):
    """A rollout that cannot be done, or was undone; the text says why, and what is served now."""


class ServerControl:
    """The server that reads the repository; a context manager.

    Args:
        url: Its HTTP address, without a scheme.
        metrics_url: That of its metrics.
        admin_key: Its key.
        timeout_s: How long a load may take.
    """

    def __init__(self, url: str, metrics_url: str, admin_key: str, timeout_s: float) -> None:
        self._client = tritonclient.http.InferenceServerClient(
            url, connection_timeout=timeout_s, network_timeout=timeout_s
        )
        self._url, self._metrics_url = url, metrics_url
        self._headers = {ADMIN_HEADER: admin_key}

    @property
    def client(self) -> Any:
        """For requests to a version of a model."""
        return self._client

    def __enter__(self) -> ServerControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def ready(self) -> dict[str, set[int]]:
        """The versions of each model that can be asked.

        Raises:
            RolloutError: The server does not answer, or the key is wrong.
        """
        try:
            index = self._client.get_model_repository_index(headers=self._headers)
        except InferenceServerException as error:
            raise RolloutError(
                f"{self._url}: {error.message()}; give the server's own key (TRITONCLIP_ADMIN_KEY)"
            ) from error
        except OSError as error:
            raise RolloutError(f"no server answers at {self._url}: {error}") from error
        found: dict[str, set[int]] = {model: set() for model in (*PYTHON_MODELS, *ENSEMBLES)}
        for entry in index:
            if entry.get("state") == "READY" and entry["name"] in found:
                found[entry["name"]].add(int(entry["version"]))
        return found

    def load(self, model: str) -> None:
        """Has the server read a model's configuration anew, and load and unload versions as it says.

        Raises:
            RolloutError: It cannot; what served before serves on.
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
        """Waits until nothing was inside a version for a moment; False where the time was over before."""
        deadline, before = time.monotonic() + timeout_s, None
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            now = read_work(self._metrics(), version)
            if now != before or inside(now):
                quiet_since, before = time.monotonic(), now
            if time.monotonic() - quiet_since >= QUIET_S:
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
            raise RolloutError(f"no metrics at {self._metrics_url} ({error}): give --metrics-url") from error
