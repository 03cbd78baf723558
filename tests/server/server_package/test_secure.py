"""TLS, mutual TLS and restricted endpoints on servers that require them."""

import re
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.helpers.network import Forwarder, count_calls
from tests.helpers.servers import ROOT, run_script
from tritonclip import AccessDeniedError, Client, InvalidInputError, ServerUnavailableError
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions
from tritonclip_server.serving.tls import TlsFiles

ANY_PORT = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
KEY_HEADER = {"grpc": "triton-grpc-protocol-shop-key", "http": "shop-key"}


@dataclass
class Certificates:
    """PEM files of two authorities, a server and a client."""

    directory: object

    def __post_init__(self):
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

    def write(self, name, *blobs):
        path = self.directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        path.chmod(0o600)
        return str(path)

    def files(self, mutual=False):
        return TlsFiles(Path(self.certificate), Path(self.key), Path(self.ca) if mutual else None)

    def context(self, certificate, mutual=False):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["h2", "http/1.1"])
        certificate.configure_cert(context)
        if mutual:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual"])
def mutual(request):
    """Whether the server requires a client certificate."""
    return request.param


@pytest.fixture(scope="module")
def ports(mutual, server, demo_repository, certificates):
    """The ports of gRPC and HTTP with TLS. Triton has no TLS for HTTP, so a proxy terminates it."""
    tls = certificates.files(mutual)
    with (
        EmbeddedTriton(demo_repository, ServerOptions(**ANY_PORT, tls=tls)) as secure,
        Forwarder(server.http_url, certificates.context(certificates.served, mutual)) as proxy,
    ):
        addresses = {"grpc": secure.grpc_url, "http": proxy.address}
        yield {name: address.rpartition(":")[2] for name, address in addresses.items()}


@pytest.fixture
def connect(make, protocol):
    """Return a function that makes clients of the TLS ports."""
    return lambda ports, **options: make(
        f"{protocol}s://127.0.0.1:{ports[protocol]}", timeout_s=20, **options
    )


def assert_rejected(client):
    with pytest.raises(ServerUnavailableError, match=r"^the encrypted connection failed: \S") as caught:
        client.embed_texts("a")
    for advice in (
        "authority of the server's certificate",
        "names this host",
        "requires cert_file and key_file",
    ):
        assert advice in caught.value.message
    assert caught.value.model == "clip_text_embedding"
    assert caught.value.endpoint == client.endpoint
    return str(caught.value)


def test_client_with_the_right_certificates_is_accepted(connect, ports, certificates):
    assert connect(ports, ca_file=certificates.ca, **certificates.of_client).embed_texts("a").shape == (512,)


def test_client_without_a_certificate_is_accepted_only_without_mutual_tls(
    connect, ports, certificates, mutual
):
    if mutual:
        assert_rejected(connect(ports, ca_file=certificates.ca))
    else:
        assert connect(ports, ca_file=certificates.ca).embed_texts("a").shape == (512,)


def test_server_certificate_of_another_authority_is_rejected(connect, ports, certificates):
    text = assert_rejected(connect(ports, ca_file=certificates.other_ca, **certificates.of_client))
    assert "CERTIFICATE_VERIFY_FAILED" in text


def test_private_authority_is_rejected_without_ca_file(connect, ports, certificates):
    assert_rejected(connect(ports, **certificates.of_client))


def test_certificate_for_another_host_is_rejected(make, protocol, url, certificates):
    with Forwarder(url, certificates.context(certificates.named_otherwise)) as proxy:
        assert_rejected(make(f"{protocol}s://{proxy.address}", ca_file=certificates.ca))


def test_tls_to_a_port_without_tls_is_rejected(make, protocol, url, certificates):
    assert_rejected(make(f"{protocol}s://{url}", ca_file=certificates.ca))


def test_calls_are_spread_over_secure_endpoints(make, protocol, url, certificates):
    context = certificates.context(certificates.served)
    with Forwarder(url, context) as one, Forwarder(url, context) as other:
        client = make(f"{protocol}s://{one.address},{other.address}", ca_file=certificates.ca)
        for _ in range(6):
            assert client.embed_texts("a").shape == (512,)
        assert one.connections
        assert other.connections


@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file"])
def test_file_that_is_not_pem_is_reported_before_any_call(make, protocol, certificates, option):
    no_pem = certificates.write("note.txt", trustme.Blob(b"not a certificate"))
    options = {"ca_file": certificates.ca, **certificates.of_client, option: no_pem}
    with pytest.raises(InvalidInputError, match="ca_file, cert_file or key_file cannot be used.*PEM files"):
        make(f"{protocol}s://127.0.0.1:9", **options)


@pytest.mark.parametrize("attribute", ["cert", "key", "client_ca"])
def test_server_rejects_files_that_are_missing_or_not_pem(certificates, attribute, demo_repository):
    no_pem = Path(certificates.write("note.txt", trustme.Blob(b"not a certificate")))
    for path, reason in ((no_pem, f"{no_pem} .*PEM"), (Path("/none.pem"), "cannot read /none.pem .*No such")):
        tls = replace(certificates.files(mutual=True), **{attribute: path})
        with pytest.raises(LaunchError, match=reason):
            EmbeddedTriton(demo_repository, ServerOptions(**ANY_PORT, tls=tls)).start()


def test_server_rejects_a_key_of_another_certificate(certificates, demo_repository):
    tls = replace(certificates.files(), key=Path(certificates.of_client["key_file"]))
    with pytest.raises(LaunchError, match=r"cannot be used as certificate and key .*MISMATCH"):
        EmbeddedTriton(demo_repository, ServerOptions(**ANY_PORT, tls=tls)).start()


def test_server_rejects_a_key_with_a_passphrase(certificates, demo_repository):
    key = serialization.load_pem_private_key(certificates.served.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path = Path(certificates.write("encrypted.key", trustme.Blob(encrypted)))
    tls = replace(certificates.files(), key=path)
    with pytest.raises(LaunchError, match="the key is encrypted.*without a passphrase"):
        EmbeddedTriton(demo_repository, ServerOptions(**ANY_PORT, tls=tls)).start()


def test_world_readable_key_gets_a_warning(certificates):
    assert certificates.files().check() == []
    key = Path(certificates.write("open.key", certificates.served.private_key_pem))
    key.chmod(0o644)
    assert replace(certificates.files(), key=key).check() == [f"{key} can be read by all users: chmod 600"]


def test_http_and_metrics_stay_on_loopback_with_tls(certificates, demo_repository):
    options = ServerOptions(**ANY_PORT, host="0.0.0.0", tls=certificates.files())
    server = EmbeddedTriton(demo_repository, options)
    assert server.grpc_url.startswith("0.0.0.0:")
    assert {url.partition(":")[0] for url in (server.http_url, server.metrics_url)} == {"127.0.0.1"}
    assert server.probe_url == f"http://{server.http_url}"
    opened = EmbeddedTriton(demo_repository, replace(options, http_host="0.0.0.0"))
    assert opened.http_url.startswith("0.0.0.0:")


def test_serve_with_mutual_tls_answers_and_is_not_restarted(certificates, demo_repository, tmp_path):
    options = ["--tls-cert", certificates.certificate, "--tls-key", certificates.key]
    options += ["--tls-client-ca", certificates.ca]
    options += ["--probe-interval", "0.1", "--probe-failures", "1"]
    options += [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    command = [sys.executable, "scripts/serve.py", str(demo_repository), *options]
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as serving,
    ):
        try:
            address = re.search(r"ready: grpc (\S+),", serving.stdout.readline())[1]
            with Client(f"grpcs://{address}", ca_file=certificates.ca, **certificates.of_client) as client:
                assert client.embed_texts("a").shape == (512,)
            time.sleep(2)  # the supervisor probes the server, without a certificate
        finally:
            serving.terminate()
            output, _ = serving.communicate(timeout=60)
    assert (serving.returncode, output) == (0, "stopped on SIGTERM\n")
    assert "tls: only gRPC has TLS; HTTP and metrics listen without TLS on 127.0.0.1\n" in log.read_text()
    assert "restart" not in log.read_text()


@pytest.mark.parametrize(
    "options", [["--tls-cert", "a.pem"], ["--tls-key", "a.pem"], ["--tls-client-ca", "a"]]
)
def test_serve_requires_certificate_and_key(options, tmp_path):
    done = run_script("serve.py", tmp_path, *options)
    assert done.returncode == 2
    assert "TLS needs both --tls-cert and --tls-key" in done.stderr


@pytest.fixture(scope="module")
def restricted(demo_repository):
    """A server that requires a key for inference requests."""
    flags = {
        "grpc-restricted-protocol": "inference:shop-key=open sesame",
        "http-restricted-api": "inference:shop-key=open sesame",
    }
    with EmbeddedTriton(demo_repository, ServerOptions(**ANY_PORT, flags=flags)) as running:
        yield running


def test_restricted_server_answers_with_the_key(make, protocol, restricted):
    url = restricted.grpc_url if protocol == "grpc" else restricted.http_url
    headers = {KEY_HEADER[protocol]: "open sesame"}
    assert make(url, headers=headers).embed_texts("a").shape == (512,)
    assert make(url).embed_texts("a", headers=headers).shape == (512,)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_missing_or_wrong_key_is_rejected_without_a_retry(make, protocol, restricted, key):
    headers = {KEY_HEADER[protocol]: key} if key else {}
    with count_calls(restricted, protocol) as calls:
        client = make(calls.url, headers=headers)
        with pytest.raises(AccessDeniedError, match=r"restricted.*Check api_key and headers\.") as caught:
            client.embed_texts("a")
    assert len(calls.seen) == 1
    assert caught.value.model == "clip_text_embedding"
    assert caught.value.endpoint == f"{protocol}://{calls.url}"
    assert str(key) not in str(caught.value)
