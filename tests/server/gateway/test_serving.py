"""The gateway under a path prefix, with TLS, and without its optional packages."""

import re
import sys
from unittest.mock import patch

import pytest
import trustme
import urllib3

from tests.helpers.command import run_command
from tests.helpers.gateway import run_gateway


def test_links_work_under_a_path_prefix(server):
    with run_gateway(server.grpc_url, "--root-path", "/clip") as gateway:
        page = gateway.request("GET", "/").data.decode()
        shown = re.sub(
            r"<a [^>]*hidden[^>]*>", "", page
        )  # the link to the search, which is hidden without an index
        links = re.findall(r'(?:href|src)="([^"#]+)"', shown)
        assert len(links) >= 4
        for link in links:  # relative, so that a browser requests them under /clip
            assert gateway.request("GET", f"/{link}").status == 200, link
        assert gateway.request("GET", "/static/swagger/swagger-ui.css").status == 200
        assert gateway.request("GET", "/openapi.json").json()["servers"] == [{"url": "/clip"}]
        called = gateway.post("/v1/embeddings", input="a")
        assert (called.status, called.headers["cache-control"]) == (200, "no-store")
        assert "unsafe-inline" in gateway.request("GET", "/docs").headers["content-security-policy"]
        assert "unsafe-inline" not in gateway.request("GET", "/").headers["content-security-policy"]


def test_tls_certificate_is_served(server, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    with (
        run_gateway(server.grpc_url, *options) as gateway,
        urllib3.PoolManager(ca_certs=str(tmp_path / "ca.pem"), retries=False) as pool,
    ):
        assert gateway.url.startswith("https://")
        assert pool.request("GET", f"{gateway.url}/readyz").json()["status"] == "ready"
        with urllib3.PoolManager(retries=False) as strangers, pytest.raises(urllib3.exceptions.SSLError):
            strangers.request("GET", f"{gateway.url}/healthz")


@pytest.mark.parametrize(
    ("package", "options", "message"),
    [
        ("fastapi", [], 'the gateway needs fastapi; install it with: pip install "tritonclip[gateway]" (in '),
        ("limits", [], "the gateway needs limits; install"),
        ("prometheus_client", [], "the gateway needs prometheus_client; install"),
        (
            "opentelemetry.exporter.otlp.proto.http.trace_exporter",
            ["--trace"],
            'install it with: pip install "tritonclip[tracing]"',
        ),
    ],
)
def test_missing_package_is_named_with_its_pip_command(package, options, message):
    with patch.dict(sys.modules, {package: None}):
        for name in [name for name in sys.modules if name.startswith("tritonclip.gateway") and not options]:
            del sys.modules[name]  # so that the command imports the gateway again, without the package
        done = run_command("gateway", *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
