"""Requests that are too large, too many or too slow, and callers that disconnect."""

import contextlib
import hashlib
import select
import signal
import socket

import pytest

from tests.helpers.gateway import metric, run_gateway
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tests.server.gateway.raw_http import connected, head, is_closed, read_reply, upload

CIRCLE = (ROOT / "scripts" / "demo" / "images" / "red_circle.jpg").read_bytes()
LABELS = ["a red circle", "the digit 7"]
MIB = 2**20
BODY_TIMEOUT_S = 0.5
YEAR_S = 366 * 24 * 3600


@pytest.fixture(scope="module")
def tight(server):
    """Start a gateway with low limits."""
    with run_gateway(server.grpc_url, "--max-body-mib", 2, "--max-mib", 3, "--max-requests", 3) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def hasty(server):
    """Start a gateway with a short body timeout."""
    with run_gateway(server.grpc_url, "--body-timeout", BODY_TIMEOUT_S) as gateway:
        yield gateway


def wait_until_idle(gateway):
    names = ("requests_in_flight", "body_bytes_in_flight")
    wait_until(
        lambda: not sum(metric(gateway, f"tritonclip_gateway_{name}") for name in names), f"{names} are not 0"
    )


def works(gateway):
    fields = [("images", ("a.jpg", CIRCLE)), *(("labels", label) for label in LABELS)]
    reply = gateway.request("POST", "/v1/classify", fields=fields)
    return reply.status == 200 and reply.json()["results"][0]["predictions"][0]["label"] == "a red circle"


def test_announced_oversized_body_is_rejected_unread(tight):
    with connected(tight.url) as connection:
        connection.sendall(head("/v1/classify", Content_Type="application/json", Content_Length=2 * MIB + 1))
        reply = read_reply(connection)
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    assert reply.error["message"].startswith(f"the body is larger than {2 * MIB} bytes; send fewer")
    assert works(tight)


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embeddings"])
def test_body_that_exceeds_the_limit_is_rejected(tight, path):
    with connected(tight.url) as connection:
        connection.sendall(head(path, Content_Type="application/json", Transfer_Encoding="chunked"))
        for _ in range(33):
            connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        reply = read_reply(connection)
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    assert works(tight)


def test_upload_over_the_byte_limit_is_rejected(tight):
    wait_until_idle(tight)
    big = head("/v1/classify", Content_Type="application/json", Content_Length=2 * MIB)
    with connected(tight.url) as first, connected(tight.url) as second:
        first.sendall(big + bytes(2 * MIB - 1))
        wait_until(
            lambda: metric(tight, "tritonclip_gateway_body_bytes_in_flight") == 2 * MIB - 1, "first upload"
        )
        second.sendall(big + bytes(MIB + 2))
        reply = read_reply(second)
        assert (reply.status, reply.error["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.error["message"] == "too many upload bytes in flight; try again later"
    wait_until_idle(tight)
    assert works(tight)


def test_announced_bodies_that_do_not_arrive_keep_nobody_out(tight):
    with contextlib.ExitStack() as stack:
        for _ in range(16):  # over the limits on requests and, as announced, on bytes
            connection = stack.enter_context(connected(tight.url))
            connection.sendall(
                head("/v1/classify", Content_Type="application/json", Content_Length=2 * MIB) + b"{"
            )
        wait_until(lambda: metric(tight, "tritonclip_gateway_body_bytes_in_flight") == 16, "16 bytes")
        assert works(tight)
    wait_until_idle(tight)


def test_incomplete_body_gets_408_and_the_connection_is_closed(hasty):
    with connected(hasty.url) as connection:
        connection.sendall(upload("/v1/classify", [CIRCLE])[:-100])
        reply = read_reply(connection)
        assert (reply.status, reply.error["code"]) == (408, "request_timeout")
        assert reply.headers["connection"] == "close"
        assert "did not arrive in time" in reply.error["message"]
        assert is_closed(connection)
    wait_until_idle(hasty)


def test_body_that_arrives_byte_by_byte_gets_408(hasty):
    message = iter(upload("/v1/classify", [CIRCLE]))
    with connected(hasty.url) as connection:
        connection.sendall(bytes(next(message) for _ in range(1000)))
        for byte in message:
            if select.select([connection], [], [], 0.02)[0]:
                break
            connection.sendall(bytes([byte]))
        assert read_reply(connection).status == 408


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["none", "some"]
)
def test_connection_without_complete_headers_is_closed(hasty, sent):
    with connected(hasty.url) as connection:
        connection.sendall(sent)
        assert is_closed(connection)


def test_connection_is_reused_for_several_requests(tight):
    with connected(tight.url) as connection:
        for _ in range(3):
            connection.sendall(upload("/v1/classify", [CIRCLE]))
            assert read_reply(connection).status == 200


def test_disconnect_during_the_body_is_logged_as_499(tight):
    wait_until_idle(tight)
    with connected(tight.url) as connection:
        connection.sendall(upload("/v1/classify", [CIRCLE], X_Request_ID="half")[:-100])
        wait_until(lambda: metric(tight, "tritonclip_gateway_body_bytes_in_flight") > 0, "upload")
    assert tight.logged(request_id="half")["status"] == 499
    wait_until_idle(tight)


@pytest.mark.parametrize("deadline", ["0", "-1", "nan", "soon", "0.09"])
def test_invalid_deadline_gets_400(open_gateway, deadline):
    reply = open_gateway.request("GET", "/v1/models", headers={"X-Timeout-S": deadline})
    assert (reply.status, reply.json()["error"]["param"]) == (400, "X-Timeout-S")


# These tests use a limit per year, whose window rarely ends between two requests.
def test_rate_limit_applies_per_key(server, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{key}:{hashlib.sha256(key.encode()).hexdigest()}\n" for key in ("ann", "bob")))
    with run_gateway(server.grpc_url, "--keys-file", keys, "--rate-limit", "4/year") as gateway:

        def statuses(key, count):
            return [gateway.request("GET", "/v1/models", headers={"key": key}).status for _ in range(count)]

        assert statuses("ann", 6) == [200] * 4 + [429] * 2
        assert statuses("wrong", 6) == [401] * 6
        assert statuses("bob", 4) == [200] * 4
        rejected = gateway.request("POST", "/v1/classify", headers={"key": "bob"}, json={})
        assert rejected.status == 429
        assert rejected.json()["error"]["type"] == "rate_limit_error"
        assert "rate limit of 4 per 1 year exceeded" in rejected.json()["error"]["message"]
        assert 1 <= int(rejected.headers["retry-after"]) <= YEAR_S
        assert [gateway.request("GET", "/healthz").status for _ in range(6)] == [200] * 6


@pytest.mark.parametrize(
    ("options", "other"),
    [((), 429), (("--forwarded-allow-ips", "127.0.0.1"), 200)],
    ids=["forged", "trusted"],
)
def test_rate_limit_applies_per_address_that_a_trusted_proxy_forwards(server, options, other):
    with run_gateway(server.grpc_url, "--rate-limit", "2/year", *options) as gateway:

        def status(address):
            return gateway.request("GET", "/v1/models", headers={"X-Forwarded-For": address}).status

        assert [status("192.0.2.1") for _ in range(3)] == [200, 200, 429]
        assert status("192.0.2.2") == other


def test_unreachable_server_gets_503():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused_port = listener.getsockname()[1]
    with run_gateway(f"127.0.0.1:{unused_port}") as gateway:
        assert gateway.request("GET", "/healthz").status == 200
        ready = gateway.request("GET", "/readyz")
        assert ready.status == 503
        assert ready.json() == {
            "status": "not ready",
            "inference": None,
            "reason": "the inference server cannot be reached",
        }
        headers = {"X-Request-ID": "alone"}
        reply = gateway.request("POST", "/v1/embeddings", json={"input": "a"}, headers=headers)
        assert (reply.status, reply.json()["error"]["code"]) == (503, "server_unavailable")
        assert f"127.0.0.1:{unused_port}" in gateway.logged(request_id="alone")["cause"]
        assert int(reply.headers["retry-after"]) >= 1
        assert str(unused_port) not in reply.data.decode()  # callers must not learn about the deployment


def test_allowed_origin_may_call(server, open_gateway):
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    with run_gateway(server.grpc_url, "--cors-origin", "https://app.example.com") as gateway:
        reply = gateway.request(
            "OPTIONS", "/v1/classify", headers=asked | {"Access-Control-Request-Headers": "authorization"}
        )
        assert reply.status == 200
        assert reply.headers["access-control-allow-origin"] == "https://app.example.com"
        reply = gateway.request("GET", "/v1/models", headers={"Origin": "https://app.example.com"})
        assert reply.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "Retry-After" in reply.headers["access-control-expose-headers"]
        other = gateway.request("GET", "/v1/models", headers={"Origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in other.headers
    assert open_gateway.request("OPTIONS", "/v1/classify", headers=asked).status == 405


def test_shutdown_finishes_requests_in_flight(server):
    message = upload("/v1/classify", [CIRCLE])
    with run_gateway(server.grpc_url) as gateway, connected(gateway.url) as connection:
        connection.sendall(message[:-100])
        wait_until(lambda: metric(gateway, "tritonclip_gateway_body_bytes_in_flight") > 0, "in flight")
        gateway.process.terminate()
        wait_until(lambda: not accepts(gateway.url), "the gateway still accepts connections")
        connection.sendall(message[-100:])
        assert read_reply(connection).status == 200
        gateway.process.join()
        assert gateway.process.exitcode == -signal.SIGTERM


def accepts(url):
    with contextlib.suppress(ConnectionRefusedError), connected(url):
        return True
    return False
