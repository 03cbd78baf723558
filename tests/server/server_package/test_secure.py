"""TLS and mutual TLS of the server.

Triton has no TLS for HTTP, so a proxy in front of the server's HTTP port terminates it.
"""

import pytest
import trustme

from tests.helpers.network import Forwarder
from tritonclip import InvalidInputError, ServerUnavailableError

both = pytest.mark.variant("tls", "mutual-tls")


@pytest.fixture
def mutual(server):
    """Whether the server requires a client certificate."""
    return server.options.tls.client_ca is not None


@pytest.fixture
def connect(make, protocol, server, mutual, certificates):
    """Return a function that makes clients of the server's TLS port, or of a proxy for HTTP."""
    with Forwarder(server.http_url, certificates.context(certificates.served, mutual)) as proxy:
        address = {"grpc": server.grpc_url, "http": proxy.address}[protocol]
        yield lambda **options: make(f"{protocol}s://{address}", timeout_s=60, **options)


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


@both
def test_client_with_the_right_certificates_is_accepted(connect, certificates):
    assert connect(ca_file=certificates.ca, **certificates.of_client).embed_texts("a").shape == (512,)


@both
def test_client_without_a_certificate_is_accepted_only_without_mutual_tls(connect, certificates, mutual):
    client = connect(ca_file=certificates.ca)
    if mutual:
        assert_rejected(client)
    else:
        assert client.embed_texts("a").shape == (512,)


@pytest.mark.variant("tls")
def test_server_certificate_of_another_authority_is_rejected(connect, certificates):
    assert "CERTIFICATE_VERIFY_FAILED" in assert_rejected(connect(ca_file=certificates.other_ca))


@pytest.mark.variant("tls")
def test_private_authority_is_rejected_without_ca_file(connect):
    assert_rejected(connect())


def test_certificate_for_another_host_is_rejected(make, protocol, url, certificates):
    with Forwarder(url, certificates.context(certificates.named_otherwise)) as proxy:
        assert_rejected(make(f"{protocol}s://{proxy.address}", ca_file=certificates.ca))


def test_tls_to_a_port_without_tls_is_rejected(make, protocol, url, certificates):
    client = make(f"{protocol}s://{url}", ca_file=certificates.ca)
    if protocol == "http":  # Triton's port closes the connection without a word
        assert_rejected(client)
        return
    with pytest.raises(ServerUnavailableError, match=f"the port does not use TLS; give grpc://{url}, or"):
        client.embed_texts("a")


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
