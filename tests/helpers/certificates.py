"""Certificates for servers with TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

from tritonclip_server.serving.tls import TlsFiles


class Certificates:
    """PEM files of two authorities, a server and a client.

    Args:
        directory: An empty folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.served = self.authority.issue_cert("127.0.0.1")
        self.named_otherwise = self.authority.issue_cert("elsewhere.example.org")
        client = self.authority.issue_cert("client@example.org")
        self.ca = self.write("ca.pem", self.authority.cert_pem)
        self.other_ca = self.write("other.pem", trustme.CA().cert_pem)
        self.certificate = self.write("server.pem", *self.served.cert_chain_pems)
        self.key = self.write("server.key", self.served.private_key_pem)
        self.of_client = {
            "cert_file": self.write("client.pem", *client.cert_chain_pems),
            "key_file": self.write("client.key", client.private_key_pem),
        }

    def write(self, name: str, *blobs: trustme.Blob) -> str:
        """Write a PEM file that only its owner can read, and return its path."""
        path = self.directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        path.chmod(0o600)
        return str(path)

    def files(self, mutual: bool = False) -> TlsFiles:
        """Return the files of a server, with the authority of its clients if they need certificates."""
        return TlsFiles(Path(self.certificate), Path(self.key), Path(self.ca) if mutual else None)

    def context(self, certificate: trustme.LeafCert, mutual: bool = False) -> ssl.SSLContext:
        """Return the TLS context of a proxy that serves with a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["h2", "http/1.1"])
        certificate.configure_cert(context)
        if mutual:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
