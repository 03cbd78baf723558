"""Check the PEM files of TLS for gRPC before a server starts.

Triton has TLS for gRPC only; HTTP and metrics have none.
"""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path


class TlsError(ValueError):
    """A file that cannot be used; the text gives the file, the reason and the fix."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of the server's certificate, and of the authority of its callers.

    Attributes:
        cert: The server's certificate, followed by the intermediate certificates.
        key: Its private key, without a passphrase.
        client_ca: Authority that must have signed the callers' certificates; None requires no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> list[str]:
        """Check that the files can be read and belong together.

        Returns:
            Warnings that do not keep the server from starting.

        Raises:
            TlsError: A file cannot be read, is not a PEM file, or the key does not match the certificate.
        """
        for path in (self.cert, self.key, self.client_ca):
            if path is not None:
                _check_readable(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(
                f"{self.cert} and {self.key} cannot be used as certificate and key ({error}): give the PEM "
                "files of one pair, the key without a passphrase"
            ) from error
        if self.client_ca is not None:
            _check_authority(context, self.client_ca)
        return [f"{self.key} can be read by all users: chmod 600"] if _is_open(self.key) else []

    def flags(self) -> dict[str, str]:
        """Return the flags of `tritonserver`."""
        flags = {"grpc-use-ssl": "true", "grpc-server-cert": str(self.cert), "grpc-server-key": str(self.key)}
        if self.client_ca is not None:
            flags |= {"grpc-use-ssl-mutual": "true", "grpc-root-cert": str(self.client_ca)}
        return flags


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        text = f"cannot read {path} ({error.strerror}): give a PEM file that this user may read"
        raise TlsError(text) from error


def _check_authority(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsError(
            f"{path} holds no certificate of an authority ({error}): give the PEM file of the authority "
            "that signs the callers' certificates"
        ) from error


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IROTH)


def _no_passphrase() -> str:
    """Fail for an encrypted key, for which OpenSSL would otherwise prompt at the terminal."""
    raise ValueError("the key is encrypted")
