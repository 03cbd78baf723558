"""Checks of the launcher before it starts a process: source, ports, TLS files, addresses and keys."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization

from tests.helpers.servers import ROOT
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions
from tritonclip_server.serving.serve import main as serve
from tritonclip_server.serving.tls import TlsError

REPOSITORY = ROOT / "model_repository"
ANY_PORT = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)


def test_directory_without_models_is_rejected(tmp_path):
    with pytest.raises(
        LaunchError, match="is not a model repository: write one with `tritonclip-server prepare`"
    ):
        EmbeddedTriton(tmp_path, ANY_PORT).start()


def test_port_in_use_is_reported():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        cause = rf"127\.0\.0\.1:{port}: process {os.getpid()} \(.*\) uses it; .* --grpc-port"
        with pytest.raises(LaunchError, match=f"cannot bind gRPC to {cause}"):
            EmbeddedTriton(REPOSITORY, replace(ANY_PORT, grpc_port=port)).start()


def test_random_keys_differ():
    assert EmbeddedTriton(REPOSITORY).admin_key != EmbeddedTriton(REPOSITORY).admin_key


@pytest.mark.parametrize("attribute", ["cert", "key", "client_ca"])
def test_tls_file_that_is_missing_or_not_pem_is_rejected(certificates, attribute):
    no_pem = Path(certificates.write("note.txt", trustme.Blob(b"not a certificate")))
    for path, reason in ((no_pem, f"{no_pem} .*PEM"), (Path("/none.pem"), "cannot read /none.pem .*No such")):
        with pytest.raises(TlsError, match=reason):
            replace(certificates.files(mutual=True), **{attribute: path}).check()


def test_key_of_another_certificate_keeps_the_server_from_starting(certificates):
    tls = replace(certificates.files(), key=Path(certificates.of_client["key_file"]))
    with pytest.raises(LaunchError, match=r"cannot be used as certificate and key .*MISMATCH"):
        EmbeddedTriton(REPOSITORY, replace(ANY_PORT, tls=tls)).start()


def test_key_with_a_passphrase_is_rejected(certificates):
    key = serialization.load_pem_private_key(certificates.served.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path = Path(certificates.write("encrypted.key", trustme.Blob(encrypted)))
    with pytest.raises(TlsError, match="the key is encrypted.*without a passphrase"):
        replace(certificates.files(), key=path).check()


def test_world_readable_key_gets_a_warning(certificates):
    assert certificates.files().check() == []
    key = Path(certificates.write("open.key", certificates.served.private_key_pem))
    key.chmod(0o644)
    assert replace(certificates.files(), key=key).check() == [f"{key} can be read by all users: chmod 600"]


def test_http_and_metrics_stay_on_loopback_with_tls(certificates):
    options = replace(ANY_PORT, host="0.0.0.0", tls=certificates.files())
    server = EmbeddedTriton(REPOSITORY, options)
    assert server.grpc_url.startswith("0.0.0.0:")
    assert {url.partition(":")[0] for url in (server.http_url, server.metrics_url)} == {"127.0.0.1"}
    assert server.probe_url == f"http://{server.http_url}"
    opened = EmbeddedTriton(REPOSITORY, replace(options, http_host="0.0.0.0"))
    assert opened.http_url.startswith("0.0.0.0:")


@pytest.mark.parametrize(
    "options", [["--tls-cert", "a.pem"], ["--tls-key", "a.pem"], ["--tls-client-ca", "a"]]
)
def test_serve_requires_certificate_and_key(options, tmp_path):
    done = CliRunner().invoke(serve, [str(tmp_path), *options])
    assert done.exit_code == 2
    assert "TLS needs both --tls-cert and --tls-key" in done.stderr


def test_serve_reports_a_wrong_source_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tritonclip_server.serving.serve.on_stop_signal", lambda act: None)
    done = CliRunner().invoke(serve, [str(tmp_path), "--log-format", "text"])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path} is not a model repository")
    assert done.stderr.count("\n") == 1
