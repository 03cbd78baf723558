"""The base of both clients: settings, flows, and the open or closed state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonclip._calls.client_scoring import ClientScoringFlows
from tritonclip._calls.flows import Flows
from tritonclip._calls.request import Request, start_request
from tritonclip._messages.keywords import suggests_keywords
from tritonclip._settings import ClientOptions, Settings
from tritonclip.errors import InferenceError

if TYPE_CHECKING:
    from typing_extensions import Unpack


_NOT_PICKLED = ("_flows", "_transport")


@suggests_keywords(ClientOptions)
class BaseClient:
    """The part of a client that does not depend on asyncio."""

    def __init__(self, url: str | None = None, **options: Unpack[ClientOptions]) -> None:
        """Check the settings; no connection is made yet.

        Args:
            url: `host:port`. A scheme in front (`grpc://`, `http://`, `grpcs://` or `https://`) sets the
                protocol and TLS. Calls are balanced over several servers, separated by commas. None:
                `TRITONCLIP_URL`, else localhost with the protocol's port (gRPC 8001, HTTP 8000, TLS 443).
            **options: See `ClientOptions`.

        Raises:
            InvalidInputError: An argument or an environment variable is malformed.
            TypeError: There is no such argument; the text suggests one.
            MissingExtraError: `tritonclient` lacks the protocol's dependencies.
            ServerUnavailableError: One of several gRPC host names cannot be resolved.
        """
        self._settings = Settings.from_env(url, **options)
        self._closed = False
        self._open()

    def _open(self) -> None:
        """Create what a copy of the client in another process must not share."""
        scores_here = self._settings.preprocess == "client"
        self._flows = ClientScoringFlows(self._settings) if scores_here else Flows(self._settings)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a pickle or a copy, which has the settings but opens its own connections."""
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a client from its pickle; it connects at its first call."""
        self.__dict__.update(state)
        self._open()

    @property
    def endpoint(self) -> str:
        """The server's address, such as `grpc://localhost:8001`; several are separated by commas."""
        return self._settings.endpoint

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every server's address with the scheme."""
        return self._settings.endpoints

    @property
    def timeout_s(self) -> float:
        """Default deadline of a call, in seconds."""
        return self._settings.timeout_s

    def __repr__(self) -> str:
        """Return the address, the deadline, and the closed state."""
        state = ", closed" if self._closed else ""
        return f"<tritonclip.{type(self).__name__} {self.endpoint}, timeout_s={self.timeout_s:g}{state}>"

    def _start(self, options: Any) -> Request:
        """Check that the client is open, and start the deadline of a call with these `RequestOptions`."""
        if self._closed:
            raise RuntimeError(f"{self!r} was used after close(); make a new {type(self).__name__}")
        return start_request(self._settings, **options)

    def _name_server(self, error: Exception) -> None:
        """Add the server's address to an error that one of its answers caused in the client."""
        if isinstance(error, InferenceError) and error.endpoint is None:
            error.endpoint = self.endpoint
