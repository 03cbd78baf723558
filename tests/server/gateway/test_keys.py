"""API keys: authorisation, and adding and revoking keys while the gateway runs."""

import hashlib

import pytest

from tests.helpers.gateway import run_gateway
from tests.helpers.waiting import wait_until
from tests.server.gateway.raw_http import connected, head, read_reply
from tritonclip import InvalidInputError
from tritonclip._cli.main import main
from tritonclip.gateway import GatewaySettings
from tritonclip.gateway.access.keys import CHECK_EVERY_S, KeyRing, digest, make_key, parse_keys


def line(name, key):
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def ask(gateway, headers):
    return gateway.request("GET", "/v1/models", headers=headers)


def test_key_is_accepted_in_either_header(gateway_with_keys):
    key = gateway_with_keys.key
    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {key}"}, {"key": key}):
        assert ask(gateway_with_keys, headers).status == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "the API key is missing"),
        ({"key": ""}, "the API key is missing"),
        ({"Authorization": "Basic YTpi"}, "the API key is missing"),
        ({"Authorization": "Bearer wrong"}, "the API key is not valid"),
        ({"key": "größer".encode()}, "the API key is not valid"),
        ({"key": "x" * 20_000}, "the API key is not valid"),
    ],
)
def test_request_without_valid_key_is_rejected(gateway_with_keys, headers, message):
    for path in (
        "/v1/classify",
        "/v1/similarity",
        "/v1/embeddings",
        "/embeddings",
        "/embeddings_image",
        "/classify",
        "/v1/search",
        "/api/predict/nlp/p/e",
        "/api/predict/file/p/e",
        "/",
        "/models/clip",
        "/embed",
        "/embed_all",
        "/v1/embed",
        "/v2/embed",
        "/v1/multimodalembeddings",
        "/vectorize",
        "/predict",
    ):
        reply = gateway_with_keys.request("POST", path, headers=headers, body=b"{}")
        assert reply.status == 401, path
        assert message in str(reply.json())
        assert reply.headers["www-authenticate"] == "Bearer"


def test_tritons_api_requires_a_key(gateway_with_keys):
    for method, path in (
        ("POST", "/v2/models/clip_zero_shot/infer"),
        ("GET", "/v2/models/clip_zero_shot/ready"),
        ("GET", "/v2/models/clip_zero_shot/config"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
    ):
        reply = gateway_with_keys.request(method, path, headers={})
        assert (reply.status, "is missing" in reply.json()["error"]) == (401, True), path


def test_thumbnail_requires_a_key(gateway_with_keys):
    path = f"/v1/search/{'0' * 32}/thumbnail"
    assert gateway_with_keys.request("GET", path, headers={}).status == 401
    assert gateway_with_keys.request("GET", path).status == 404


def test_health_pages_and_limits_need_no_key(gateway_with_keys):
    for path in (
        "/",
        "/docs",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/health",
        "/v1/health/live",
        "/v1/health/ready",
        "/metrics",
        "/v1/info",
        "/static/app.css",
    ):
        assert gateway_with_keys.request("GET", path, headers={}).status == 200, path
    assert gateway_with_keys.request("GET", "/v1/info", headers={}).json()["keys_required"] is True


def test_wrong_key_is_rejected_before_the_body_is_sent(gateway_with_keys):
    with connected(gateway_with_keys.url) as connection:
        connection.sendall(
            head("/v1/classify", Content_Type="application/json", Content_Length=1000, key="wrong")
        )
        assert read_reply(connection).status == 401


def test_log_holds_the_name_of_a_key_but_not_the_key(gateway_with_keys):
    ask(gateway_with_keys, {"key": gateway_with_keys.key, "X-Request-ID": "named"})
    ask(gateway_with_keys, {"key": "a-wrong-key", "X-Request-ID": "unnamed"})
    assert gateway_with_keys.logged(request_id="named")["key"] == "tests"
    assert "key" not in gateway_with_keys.logged(request_id="unnamed")
    log = "\n".join(gateway_with_keys.lines)
    assert (
        gateway_with_keys.key not in log
        and "a-wrong-key" not in log
        and digest(gateway_with_keys.key) not in log
    )


def test_gateway_without_keys_warns_at_startup(open_gateway, gateway_with_keys):
    assert "no API keys configured: anyone" in open_gateway.logged(level="WARNING")["event"]
    assert not [line for line in gateway_with_keys.lines if "no API keys" in line]


def test_keys_are_added_and_revoked_at_runtime(server, tmp_path):
    file = tmp_path / "keys"
    first, second = make_key(), make_key()
    file.write_text(f"# who\n{line('first', first)}\n")
    with run_gateway(server.grpc_url, "--keys-file", file) as gateway:

        def statuses():
            return [ask(gateway, {"key": key}).status for key in (first, second)]

        assert statuses() == [200, 401]
        file.write_text(f"{line('first', first)}\n{line('second', second)}  # new\n")
        wait_until(lambda: statuses() == [200, 200], "the new key is not accepted")
        file.write_text(f"{line('second', second)}\n")
        wait_until(lambda: statuses() == [401, 200], "the revoked key is accepted")
        file.write_text("no line of keys\n")
        wait_until(lambda: statuses() == [401, 401], "keys of a malformed file are accepted")
        assert "line 1: expected NAME:SHA256" in gateway.logged(level="ERROR")["cause"]


def test_changed_keys_file_is_read_again_after_a_second(tmp_path):
    file, time_s = tmp_path / "keys", 100.0
    file.write_text(line("file", "a"))
    ring = KeyRing(parse_keys(line("environment", "b"), "environment"), file, clock_s=lambda: time_s)

    def names():
        nonlocal time_s
        time_s += CHECK_EVERY_S
        return [ring.name_of(key) for key in "abc"]

    assert names() == ["file", "environment", None]
    file.write_text(f"{line('file', 'a')}\n{line('new', 'c')}\n")
    assert ring.name_of("c") is None
    assert names() == ["file", "environment", "new"]
    file.write_text(line("new", "c"))
    assert names() == [None, "environment", "new"]
    file.write_text("no line of keys")
    assert names() == [None, "environment", None]
    file.write_text(line("new", "c"))
    assert names() == [None, "environment", "new"]
    file.unlink()
    assert names() == [None, "environment", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one", "line 1: expected NAME:SHA256"),
        ("# one\nname:abc", "line 2: expected"),
        (f"{line('a', 'x')}\n{line('a', 'y')}", "line 2: duplicate name"),
        (f"a b:{'0' * 64}", "expected"),
        (f"a:{'G' * 64}", "expected"),
    ],
)
def test_malformed_keys_are_rejected_at_startup(text, message):
    with pytest.raises(InvalidInputError, match=message):
        GatewaySettings(keys=text)


def test_gateway_key_prints_a_key_and_stores_its_digest(tmp_path, capsys):
    file = tmp_path / "keys"
    made = {}
    for name in ("ann", "bob@example.com"):
        assert main(["gateway-key", name, "--append-to", str(file)]) == 0
        out, err = capsys.readouterr()
        made[name] = out.strip()
        assert line(name, made[name]) in err
    assert file.stat().st_mode & 0o777 == 0o600
    ring = KeyRing({}, file)
    assert {ring.name_of(key) for key in made.values()} == set(made)
    assert not any(key in file.read_text() for key in made.values())
    assert main(["gateway-key", "ann", "--append-to", str(file)]) == 2
    assert "'ann' already has a key" in capsys.readouterr().err
    assert main(["gateway-key", "a b"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keys-file", "missing"], "keys_file: no such file: 'missing'"),
        (["--rate-limit", "many"], "rate_limit 'many': expected a rate such as '100/minute'"),
        (["--url-network", "10.0.0.1/8"], "url_networks: 10.0.0.1/8 has host bits set"),
        (["--max-images", "0"], "max_images: expected a whole number"),
        (["--body-timeout", "0"], "body_timeout_s: expected finite seconds above 0"),
        (["--tls-cert", "a.pem"], "TLS needs both --tls-cert and --tls-key"),
        (["--url", "ftp://host"], "ftp"),
    ],
)
def test_invalid_options_exit_with_2(options, message, capsys):
    assert main(["gateway", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
