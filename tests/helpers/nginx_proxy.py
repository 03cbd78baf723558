"""nginx with the templates of `docker/nginx`, as a separate process on free ports."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tritonclip_server.serving.launcher import free_port

NGINX = ROOT / "docker" / "nginx"
VARIABLE = re.compile(r"\$\{([A-Z_]+)\}")
PATIENCE_S = 60
UNLIMITED = {"CONNECTIONS_PER_ADDRESS": "1000", "REQUESTS_PER_SECOND": "10000", "REQUESTS_BURST": "10000"}
"""Values without limits that a test could reach."""
MAIN = """
{user}
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/*.http.conf;
}}
"""


def require_nginx() -> None:
    """Skip the test if nginx is not installed; fail in CI."""
    require("nginx", "nginx-light")


def defaults() -> dict[str, str]:
    """Return the default values of the template variables."""
    lines = (NGINX / "defaults.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def fill(template: Path, values: Mapping[str, str]) -> str:
    """Substitute the variables of a template, like the entry point of the official image."""
    return VARIABLE.sub(lambda found: values[found[1]], template.read_text(encoding="utf-8"))


def balanced(*addresses: str) -> str:
    """Return a value for TRITON_HTTP or TRITON_GRPC that behaves like a name with these addresses."""
    template = (NGINX / "templates" / "tritonclip.conf.template").read_text(encoding="utf-8")
    parameters = re.findall(r"server \$\{TRITON_HTTP\}([^;]*);", template)[0]
    return f"{parameters}; server ".join(addresses)


class Proxy:
    """A running nginx; a context manager.

    Args:
        http: Address of Triton's HTTP port.
        grpc: Address of Triton's gRPC port.
        directory: Empty folder for nginx's files.
        tls: Values of the TLS template; None disables TLS.
        values: Values that replace the defaults.
    """

    def __init__(
        self, http: str, grpc: str, directory: Path, tls: Mapping[str, str] | None = None, **values: str
    ) -> None:
        suffix = " ssl" if tls else ""
        self.http_url, self.grpc_url = (f"127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2))
        filled = {
            **defaults(),
            "TRITON_HTTP": http,
            "TRITON_GRPC": grpc,
            "HTTP_LISTEN": self.http_url + suffix,
            "GRPC_LISTEN": f"{self.grpc_url}{suffix} http2",
            **(tls or {}),
            **values,
        }
        for template in (*(NGINX / "templates").iterdir(), *((NGINX / "tls").iterdir() if tls else ())):
            (directory / f"{template.stem}.http.conf").write_text(fill(template, filled))
        user = "user root;" if os.getuid() == 0 else ""  # the workers need write access to the folder
        (directory / "nginx.conf").write_text(MAIN.format(directory=directory, user=user))
        self._command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]

    def check(self) -> subprocess.CompletedProcess[str]:
        """Run `nginx -t`."""
        return subprocess.run([*self._command, "-t"], capture_output=True, text=True, check=False)

    def __enter__(self) -> Proxy:
        """Start nginx, and wait until it listens."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        wait_until(self._listens, "nginx does not listen")
        return self

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.check().stderr
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.http_url.rpartition(":")[2]))) == 0

    def __exit__(self, *_: object) -> None:
        """Stop nginx."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def url(self, protocol: str) -> str:
        """Return the address for a protocol."""
        return self.grpc_url if protocol == "grpc" else self.http_url

    def http(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request, and return status and body of the response."""
        connection = http.client.HTTPConnection(self.http_url, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
