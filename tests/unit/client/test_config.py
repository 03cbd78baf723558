from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tritonclip import Client, InvalidInputError
from tritonclip._settings import ClientOptions, Settings


def settings(url: str | None = None, env: dict[str, str] | None = None, **options: Any) -> Settings:
    return Settings.from_env(url, environ=env or {}, **options)


def test_settings_without_arguments_are_the_defaults() -> None:
    assert settings() == Settings(urls=("localhost:8001",), protocol="grpc", timeout_s=30.0)
    assert settings(protocol="http").endpoint == "http://localhost:8000"


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("host", "grpc://host:8001"),
        ("host:9", "grpc://host:9"),
        (" host:9/ ", "grpc://host:9"),
        ("grpc://host", "grpc://host:8001"),
        ("http://host", "http://host:8000"),
        ("http://host:9/", "http://host:9"),
        ("http://host/clip/v1/", "http://host:8000/clip/v1"),
        ("[::1]", "grpc://[::1]:8001"),
        ("http://[::1]:9", "http://[::1]:9"),
        ("https://host", "https://host:443"),
        ("grpcs://host:9", "grpcs://host:9"),
        ("https://host/clip", "https://host:443/clip"),
        ("a, b:9", "grpc://a:8001,b:9"),
        ("http://a,b", "http://a:8000,b:8000"),
        ("grpcs://a:1,grpcs://b:2", "grpcs://a:1,b:2"),
    ],
)
def test_url_is_completed_with_scheme_and_port(url: str, endpoint: str) -> None:
    assert settings(url).endpoint == endpoint


@pytest.mark.parametrize(
    "url",
    ["a,", "a,,b", "http://a,grpc://b", "a,grpc://b", "http://a,https://b", "ftp://host",
     "://host", "host:", "host:0", "host:65536", "host:x", "host:²", ":8001", "grpc://",
     "a b:1", "::1", "host:1/path", "http://user@host", "http://host:1/?a=b", "http://host:1/#a"],
)  # fmt: skip
def test_malformed_url_is_rejected(url: str) -> None:
    with pytest.raises(InvalidInputError, match="url"):
        settings(url)


def test_argument_comes_before_environment_before_default() -> None:
    env = {"TRITONCLIP_URL": "env:1", "TRITONCLIP_PROTOCOL": "http", "TRITONCLIP_TIMEOUT_S": "2.5"}
    assert settings(env=env) == Settings(urls=("env:1",), protocol="http", timeout_s=2.5)
    assert settings("arg:2", env) == Settings(urls=("arg:2",), protocol="http", timeout_s=2.5)
    assert settings("arg:2", env, protocol="grpc", timeout_s=1) == Settings(
        urls=("arg:2",), protocol="grpc", timeout_s=1.0
    )
    assert settings("grpc://arg:2", env).protocol == "grpc"
    assert settings(env={"TRITONCLIP_URL": "http://env"}).endpoint == "http://env:8000"
    assert settings(env=dict.fromkeys(env, "")) == settings()


def test_protocol_that_contradicts_the_url_is_rejected() -> None:
    with pytest.raises(InvalidInputError, match="contradicts the URL http://host"):
        settings("http://host", protocol="grpc")
    with pytest.raises(InvalidInputError, match="contradicts"):
        settings(env={"TRITONCLIP_URL": "grpc://host", "TRITONCLIP_PROTOCOL": "http"})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5"])
def test_invalid_timeout_is_rejected(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="timeout_s"):
        settings(timeout_s=value)


@pytest.mark.parametrize(
    "env",
    [{"TRITONCLIP_TIMEOUT_S": "soon"}, {"TRITONCLIP_TIMEOUT_S": "-1"}, {"TRITONCLIP_PROTOCOL": "soap"}],
)
def test_invalid_environment_variable_is_rejected(env: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="TIMEOUT_S|timeout_s|protocol"):
        settings(env=env)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().urls = ("other:1",)  # type: ignore[misc]


def test_client_reads_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONCLIP_URL", "http://env-host:7")
    monkeypatch.setenv("TRITONCLIP_TIMEOUT_S", "3")
    with Client() as client:
        assert (client.endpoint, client.timeout_s) == ("http://env-host:7", 3.0)
        assert repr(client) == "<tritonclip.Client http://env-host:7, timeout_s=3>"
    assert "closed" in repr(client)


def test_api_key_becomes_a_header_and_is_never_shown() -> None:
    by_argument = settings(api_key="s3cret", headers={"X-Team": "a"})
    assert by_argument.headers == {"authorization": "Bearer s3cret", "x-team": "a"}
    assert settings(env={"TRITONCLIP_API_KEY": "s3cret"}).headers == {"authorization": "Bearer s3cret"}
    assert "s3cret" not in repr(by_argument)
    with Client(api_key="s3cret") as client:
        assert "s3cret" not in repr(client)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("ä", "x"),
        (3, "x"),
        ("Content-Length", "9"),
        ("grpc-timeout", "1S"),
        ("x", "a\nb"),
        ("x", "ä"),
        ("x", 1),
    ],
)
def test_invalid_header_is_rejected(name: Any, value: Any) -> None:
    with pytest.raises(InvalidInputError, match="headers: "):
        settings(headers={name: value})


def test_tls_files_are_checked(tmp_path: Path) -> None:
    ca, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    ca.touch(), other.touch()
    found = settings("grpcs://host", ca_file=ca, cert_file=other, key_file=str(other))
    assert (found.ca_file, found.cert_file, found.key_file) == (str(ca), str(other), str(other))
    env = {"TRITONCLIP_CA_FILE": str(ca), "TRITONCLIP_CERT_FILE": "", "TRITONCLIP_KEY_FILE": ""}
    assert settings("https://host", env).ca_file == str(ca)
    with pytest.raises(InvalidInputError, match="ca_file: no such file: .*missing"):
        settings("https://host", ca_file=tmp_path / "missing")
    with pytest.raises(InvalidInputError, match="belong together"):
        settings("https://host", cert_file=other)
    with pytest.raises(InvalidInputError, match="begins with https://"):
        settings("http://host", ca_file=ca)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compression", "brotli"),
        ("preprocess", "both"),
        ("attempts", 0),
        ("attempts", 6),
        ("attempts", True),
        ("keepalive_s", 0),
        ("fetch_timeout_s", -1),
        ("fetch_max_bytes", 0),
    ],
)
def test_invalid_option_is_rejected(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name):
        settings(**{name: value})


def test_unknown_option_raises_type_error() -> None:
    with pytest.raises(TypeError, match="timeout"):
        Client(timeout=3)  # type: ignore[call-arg]


def test_every_option_is_a_setting() -> None:
    names = {field.name for field in dataclasses.fields(Settings)}
    assert set(ClientOptions.__annotations__) - names == {"api_key"}  # which becomes a header
    assert names - set(ClientOptions.__annotations__) == {"urls", "secure"}
