"""What the two clients share: the settings and the state of being open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonclip._calls.flows import Flows
from tritonclip._calls.request import Request, start_request
from tritonclip._settings import ClientOptions, Settings
from tritonclip.errors import InferenceError

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BaseClient:
    """The part of a client that is the same with and without asyncio."""

    def __init__(self, url: str | None = None, **options: Unpack[ClientOptions]) -> None:
        """Read the settings; no connection is made yet.

        Args:
            url: `host:port`, or with `grpc://`, `http://`, `grpcs://` or `https://` in front, which sets the
                protocol and TLS. Several, separated by commas, take turns. None: `TRITONCLIP_URL`, else
                localhost at the protocol's port (gRPC 8001, HTTP 8000, with TLS 443).
            **options: See `ClientOptions`.

        Raises:
            InvalidInputError: If an argument or a variable is malformed.
            MissingExtraError: If `tritonclient` lacks the protocol's dependencies.
            ServerUnavailableError: If one of several gRPC host names cannot be resolved.
        """
        self._settings = Settings.from_env(url, **options)
        self._flows = Flows(self._settings)
        self._closed = False

    @property
    def endpoint(self) -> str:
        """The server's address, as `grpc://localhost:8001`; several are separated by commas."""
        return self._settings.endpoint

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every server's address, each with the scheme."""
        return self._settings.endpoints

    @property
    def timeout_s(self) -> float:
        """Deadline of a call that names no other, in seconds."""
        return self._settings.timeout_s

    def __repr__(self) -> str:
        """The address, the deadline, and whether it is closed."""
        state = ", closed" if self._closed else ""
        return f"<tritonclip.{type(self).__name__} {self.endpoint}, timeout_s={self.timeout_s:g}{state}>"

    def _start(self, options: Any) -> Request:
        """Check that the client is open, and start a call's deadline; `options` are `RequestOptions`."""
        if self._closed:
            raise RuntimeError(f"{self!r} was used after close(); make a new {type(self).__name__}")
        return start_request(self._settings, **options)

    def _name_server(self, error: Exception) -> None:
        """Add the server's address to an error that an answer of it caused here."""
        if isinstance(error, InferenceError) and error.endpoint is None:
            error.endpoint = self.endpoint
