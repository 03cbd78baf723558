"""The choice of a transport by protocol; the only module that imports the four transports.

They are imported when a client is made, because `tritonclient` takes longer to import than everything else.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from tritonclip._settings import Settings
from tritonclip._transport.base import AsyncTransport, Transport, tls_context
from tritonclip.errors import MissingExtraError


def open_transport(settings: Settings) -> Transport:
    """Return the transport of the settings' protocol, which connects at the first call.

    Raises:
        InvalidInputError: See `tls_context`.
        MissingExtraError: `tritonclient` lacks the protocol's dependencies.
    """
    _check_tls(settings)
    with _missing_extra(settings.protocol):
        if settings.protocol == "grpc":
            from tritonclip._transport.grpc import GrpcTransport

            return GrpcTransport(settings)
        from tritonclip._transport.http import HttpTransport

        return HttpTransport(settings)


def open_async_transport(settings: Settings) -> AsyncTransport:
    """Return the transport for asyncio; see `open_transport`."""
    _check_tls(settings)
    with _missing_extra(settings.protocol):
        if settings.protocol == "grpc":
            from tritonclip._transport.grpc_aio import AsyncGrpcTransport

            return AsyncGrpcTransport(settings)
        from tritonclip._transport.http_aio import AsyncHttpTransport

        return AsyncHttpTransport(settings)


def _check_tls(settings: Settings) -> None:
    """Read the TLS files before any call; gRPC would report a broken file as an unreachable server."""
    if settings.secure:
        tls_context(ssl, settings)


@contextmanager
def _missing_extra(protocol: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, RuntimeError) as error:  # tritonclient raises RuntimeError for a missing extra
        raise MissingExtraError(
            f"protocol {protocol!r} needs a part of tritonclient that is not installed: "
            f"pip install 'tritonclient[{protocol}]'"
        ) from error
