"""The gateway in front of a server whose encoder is held."""

import time

import pytest

from tests.helpers.calls import settled_statistics
from tests.helpers.gateway import metric, run_gateway
from tests.helpers.servers import ROOT
from tests.helpers.variants import QUEUE_BUDGET_MS
from tests.helpers.waiting import wait_until
from tests.server.gateway.raw_http import connected, read_reply, upload
from tritonclip import Client

CIRCLE = (ROOT / "scripts" / "demo" / "images" / "red_circle.jpg").read_bytes()
CONCURRENT_GROUPS = 4
pytestmark = pytest.mark.variant("overload")


@pytest.fixture(scope="module")
def patient(server):
    """Start a gateway whose deadline never comes, and which sends each request once."""
    with run_gateway(server.grpc_url, "--timeout", 3600, "--attempts", 1) as gateway:
        yield gateway


def fields(images=1):
    return [("images", ("a.jpg", CIRCLE))] * images + [
        ("labels", "a red circle"),
        ("labels", "a blue square"),
    ]


def is_answered(gateway):
    return gateway.request("POST", "/v1/classify", fields=fields()).status == 200


def test_overloaded_server_gets_503_with_retry_after(patient, gate):
    with connected(patient.url) as connection:
        with gate.closed():
            connection.sendall(upload("/v1/classify", [CIRCLE]))
            gate.wait_until_it_holds()
            time.sleep(QUEUE_BUDGET_MS / 1000)  # at least: the request must wait longer than the budget
        reply = read_reply(connection)
    assert (reply.status, reply.error["code"]) == (503, "overloaded")
    assert 1 <= int(reply.headers["retry-after"]) <= 3
    assert patient.request("GET", "/readyz").status == 200
    wait_until(lambda: is_answered(patient), "requests are still rejected")


@pytest.mark.parametrize("images", [1, 24])
def test_missed_deadline_gets_504(patient, gate, images):
    with gate.closed():
        headers = {"X-Timeout-S": "0.1"}
        reply = patient.request("POST", "/v1/classify", fields=fields(images), headers=headers)
    assert (reply.status, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "no answer within the deadline" in reply.json()["error"]["message"]


def test_disconnect_cancels_the_work(patient, gate, server):
    """Of 200 images, only the groups that are already on their way are decoded."""
    gone = 'tritonclip_gateway_requests_total{method="POST",route="/v1/classify",status="499"}'
    before = metric(patient, gone)
    with Client(server.grpc_url) as client:
        decoded = settled_statistics(client)["image_preprocess"].rows
        with gate.closed():
            with connected(patient.url) as connection:
                connection.sendall(upload("/v1/classify", [CIRCLE] * 200, X_Request_ID="gone"))
                gate.wait_until_it_holds()
            wait_until(lambda: metric(patient, gone) == before + 1, "499")
        wait_until(lambda: is_answered(patient), "requests are rejected")
        groups = settled_statistics(client)["image_preprocess"].rows - decoded
    assert 1 <= groups <= CONCURRENT_GROUPS + 1  # 13 without cancellation; the last one is of is_answered
    assert patient.logged(request_id="gone")["status"] == 499
    assert metric(patient, "tritonclip_gateway_requests_in_flight") == 0
