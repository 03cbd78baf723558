"""Requests that are too large, too many or too slow, and callers that disconnect."""

import signal
import time

import pytest
import urllib3

from tests.helpers.calls import together
from tests.helpers.gateway import metric
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tests.server.gateway.raw_http import connected, head, is_closed, read_reply, upload
from tritonclip import Client
from tritonclip_server.benchmarks.gateway_process import running
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

IMAGES = ROOT / "scripts" / "demo" / "images"
CIRCLE = (IMAGES / "red_circle.jpg").read_bytes()
LABELS = ["a red circle", "the digit 7"]
MIB = 2**20
BODY_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def tight(server):
    """Start a gateway with low limits."""
    with running(server.grpc_url, "--max-body-mib", 2, "--max-mib", 3, "--max-requests", 3) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def hasty(server):
    """Start a gateway with a short body timeout."""
    with running(server.grpc_url, "--body-timeout", BODY_TIMEOUT_S) as gateway:
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
    wait_until_idle(tight)  # a response arrives just before its request is no longer counted
    big = head("/v1/classify", Content_Type="application/json", Content_Length=2 * MIB)
    with connected(tight.url) as first, connected(tight.url) as second:
        first.sendall(big)
        wait_until(
            lambda: metric(tight, "tritonclip_gateway_body_bytes_in_flight") == 2 * MIB, "first upload"
        )
        second.sendall(big)
        reply = read_reply(second)
        assert (reply.status, reply.error["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.error["message"] == "too many upload bytes in flight; try again later"
    wait_until_idle(tight)
    assert works(tight)


def test_request_over_the_request_limit_is_rejected(tight):
    wait_until_idle(tight)  # a response arrives just before its request is no longer counted
    small = head("/v1/classify", Content_Type="application/json", Content_Length=10)
    with connected(tight.url) as one, connected(tight.url) as two, connected(tight.url) as three:
        for connection in (one, two, three):
            connection.sendall(small)
        wait_until(lambda: metric(tight, "tritonclip_gateway_requests_in_flight") == 3, "three requests")
        rejected = tight.request("POST", "/v1/classify", json={})
        assert (rejected.status, rejected.json()["error"]["code"]) == (503, "overloaded")
        assert int(rejected.headers["retry-after"]) >= 1
        assert tight.request("GET", "/healthz").status == 200
        assert tight.request("GET", "/readyz").status == 200
    wait_until_idle(tight)
    assert works(tight)


def test_incomplete_body_gets_408_and_the_connection_is_closed(hasty):
    with connected(hasty.url) as connection:
        connection.sendall(upload("/v1/classify", [CIRCLE])[:-100])
        reply = read_reply(connection)
        assert (reply.status, reply.error["code"]) == (408, "request_timeout")
        assert reply.headers["connection"] == "close"
        assert "did not arrive in time" in reply.error["message"]
        assert is_closed(connection)
    wait_until_idle(hasty)


def test_slow_body_gets_408(hasty):
    message = upload("/v1/classify", [CIRCLE])
    with connected(hasty.url) as connection:
        connection.sendall(message[:1000])
        for byte in message[1000:1030]:
            time.sleep(0.05)
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
        assert read_reply(connection).status == 408


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["none", "some"]
)
def test_connection_without_complete_headers_is_closed(hasty, sent):
    with connected(hasty.url) as connection:
        connection.sendall(sent)
        assert is_closed(connection)


def test_connection_with_unread_body_is_closed(hasty):
    with connected(hasty.url) as connection:
        connection.sendall(head("/v1/nothing", Content_Type="application/json", Content_Length=MIB))
        assert read_reply(connection).status == 404
        assert is_closed(connection)


def test_connection_is_reused_for_several_requests(tight):
    with connected(tight.url) as connection:
        for _ in range(3):
            connection.sendall(upload("/v1/classify", [CIRCLE]))
            assert read_reply(connection).status == 200


def test_disconnect_cancels_the_work(open_gateway, server):
    """Disconnect after sending 200 large images: only the first ones are decoded."""
    large = encode(noise(700, 700), "JPEG", quality=85)
    gone = 'tritonclip_gateway_requests_total{method="POST",route="/v1/classify",status="499"}'
    with Client(server.grpc_url) as client:
        encoded = {one.name: one.rows for one in client.statistics()}["similarity"]
        before = metric(open_gateway, gone)
        with connected(open_gateway.url) as connection:
            connection.sendall(upload("/v1/classify", [large] * 200, X_Request_ID="gone"))
            time.sleep(0.5)
        wait_until(lambda: metric(open_gateway, gone) == before + 1, "499")
        wait_until_idle(open_gateway)
        assert works(open_gateway)
        time.sleep(0.5)
        finished = {one.name: one.rows for one in client.statistics()}["similarity"] - encoded
    assert finished <= 6  # 13 groups of 16 images without cancellation, plus one request of `works`
    assert open_gateway.logged(request_id="gone")["status"] == 499


def test_disconnect_during_the_body_is_logged_as_499(open_gateway):
    with connected(open_gateway.url) as connection:
        connection.sendall(upload("/v1/classify", [CIRCLE], X_Request_ID="half")[:-100])
        time.sleep(0.2)
    assert open_gateway.logged(request_id="half")["status"] == 499
    wait_until_idle(open_gateway)


def test_missed_deadline_gets_504_and_invalid_deadline_400(open_gateway):
    large = encode(noise(1500, 1500), "JPEG", quality=85)
    for fields in ([("images", ("a", large))] * 8, [("images", ("a", large))] * 24):
        reply = open_gateway.request("POST", "/v1/classify", fields=fields, headers={"X-Timeout-S": "0.1"})
        assert (reply.status, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "no answer within the deadline" in reply.json()["error"]["message"]
    for bad in ("0", "-1", "nan", "soon", "0.09"):
        reply = open_gateway.request("GET", "/v1/models", headers={"X-Timeout-S": bad})
        assert (reply.status, reply.json()["error"]["param"]) == (400, "X-Timeout-S")


# Tests that count responses use a limit per year, whose window rarely ends between two requests.
def test_rate_limit_applies_per_key(server, tmp_path):
    import hashlib

    keys = tmp_path / "keys"
    keys.write_text("".join(f"{key}:{hashlib.sha256(key.encode()).hexdigest()}\n" for key in ("ann", "bob")))
    with running(server.grpc_url, "--keys-file", keys, "--rate-limit", "4/year") as gateway:

        def statuses(key, count):
            return [gateway.request("GET", "/v1/models", headers={"key": key}).status for _ in range(count)]

        assert statuses("ann", 6) == [200] * 4 + [429] * 2
        assert statuses("wrong", 6) == [401] * 6
        assert statuses("bob", 4) == [200] * 4
        rejected = gateway.request("POST", "/v1/classify", headers={"key": "bob"}, json={})
        assert rejected.status == 429
        assert rejected.json()["error"]["type"] == "rate_limit_error"
        assert "rate limit of 4 per 1 year exceeded" in rejected.json()["error"]["message"]
        assert [gateway.request("GET", "/healthz").status for _ in range(6)] == [200] * 6


def test_rate_limit_without_keys_applies_per_address(server):
    with running(server.grpc_url, "--rate-limit", "2/year") as gateway:

        def status(address):
            return gateway.request("GET", "/v1/models", headers={"X-Forwarded-For": address}).status

        assert [status("192.0.2.1") for _ in range(3)] == [200, 200, 429]
        assert status("192.0.2.2") == 200


def test_rate_limit_response_has_retry_after(server):
    with running(server.grpc_url, "--rate-limit", "2/minute") as gateway:
        replies = [gateway.request("GET", "/v1/models") for _ in range(6)]  # a minute may end between two
        rejected = [reply for reply in replies if reply.status == 429]
        assert rejected
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in rejected)


def test_unreachable_server_gets_503(unused_port):
    with running(f"127.0.0.1:{unused_port}") as gateway:
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


def test_overloaded_server_gets_503_with_retry_after(prepare):
    exact = ("--precision", "float32", "--set", "vision_encoder.compile=off")
    repository = prepare("scripts/demo/checkpoint", "--set", "admission.queue_budget_ms=100", *exact)
    images = [path.read_bytes() for path in sorted(IMAGES.iterdir()) if path.suffix != ".json"] * 2
    fields = [("images", ("a", image)) for image in images] + [("labels", label) for label in LABELS]
    with (
        EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server,
        running(server.grpc_url) as gateway,
    ):
        pool = urllib3.PoolManager(maxsize=48)

        def classify(_):
            return pool.request("POST", f"{gateway.url}/v1/classify", fields=fields, retries=False)

        assert classify(0).status == 200  # alone, a request does not wait
        replies = [reply for _ in range(3) for reply in together(48, classify)]
        pool.clear()
        statuses = {reply.status for reply in replies}
        assert 503 in statuses and statuses <= {200, 503}, statuses
        for reply in replies:
            if reply.status == 503:
                assert reply.json()["error"]["code"] == "overloaded"
                assert 1 <= int(reply.headers["retry-after"]) <= 3
        assert gateway.request("GET", "/readyz").status == 200


def test_allowed_origin_may_call(server, open_gateway):
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    with running(server.grpc_url, "--cors-origin", "https://app.example.com") as gateway:
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
    with running(server.grpc_url) as gateway, connected(gateway.url) as connection:
        large = encode(noise(1000, 1000), "JPEG", quality=85)
        connection.sendall(upload("/v1/classify", [large] * 16))
        wait_until(lambda: metric(gateway, "tritonclip_gateway_requests_in_flight") == 1, "in flight")
        time.sleep(0.1)
        gateway.process.terminate()
        assert read_reply(connection).status == 200
        assert gateway.process.wait(20) == -signal.SIGTERM
