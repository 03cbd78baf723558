"""What the two clients share: settings, deadlines and the state of being open. Nothing is sent here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tritonclip._config import Settings, check_timeout_s
from tritonclip.errors import DeadlineExceededError, deadline_message


class BaseClient:
    """The part of a client that is the same with and without asyncio."""

    def __init__(
        self, url: str | None = None, *, protocol: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Read the settings; no connection is made yet.

        Args:
            url: `host:port`, or `grpc://host:port`, `http://host:port`, which set the protocol. None:
                `TRITONCLIP_URL`, else localhost at the protocol's port (gRPC 8001, HTTP 8000).
            protocol: `grpc` or `http`. None: `TRITONCLIP_PROTOCOL`, else gRPC.
            timeout_s: Deadline of one call in seconds, connecting included. None: `TRITONCLIP_TIMEOUT_S`,
                else 30.

        Raises:
            InvalidInputError: If an argument or a variable is malformed.
            MissingExtraError: If `tritonclient` lacks the protocol's dependencies.
        """
        self._settings = Settings.from_env(url, protocol=protocol, timeout_s=timeout_s)
        self._closed = False

    @property
    def endpoint(self) -> str:
        """The server's address, as `grpc://localhost:8001`."""
        return self._settings.endpoint

    @property
    def timeout_s(self) -> float:
        """Deadline of a call that names no other, in seconds."""
        return self._settings.timeout_s

    def __repr__(self) -> str:
        """The address, the deadline, and whether it is closed."""
        state = ", closed" if self._closed else ""
        return f"<tritonclip.{type(self).__name__} {self.endpoint}, timeout_s={self.timeout_s:g}{state}>"

    def _timeout(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else check_timeout_s(timeout_s)

    @contextmanager
    def _one_deadline(self, timeout_s: float | None) -> Iterator[Callable[[], float]]:
        """Several calls within one deadline: gives the seconds that are left, never quite 0."""
        limit_s = self._timeout(timeout_s)
        end = time.monotonic() + limit_s
        try:
            yield lambda: max(end - time.monotonic(), 1e-6)
        except DeadlineExceededError as error:
            error.message = deadline_message(limit_s)  # the caller knows the whole, not the rest
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self!r} was used after close(); make a new {type(self).__name__}")
