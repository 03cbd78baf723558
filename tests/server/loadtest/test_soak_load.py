"""Load of a soak on the real server: clients that disconnect, and the warm-up of batch sizes."""

from collections import Counter

from loadtest.soaking.hangups import HangUps
from loadtest.soaking.samples import Sampler
from loadtest.soaking.warm_up import ROUNDS, warm_up_batch_sizes
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tests.helpers.network import count_calls
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until

IMAGE = (ROOT / "scripts" / "demo" / "images" / "red_circle.jpg").read_bytes()


def test_disconnecting_clients_leave_no_requests_in_the_server(server):
    sampler = Sampler(server.pid, server.metrics)

    def is_idle():
        row = sampler.sample()
        return not (row["pending"] or row["executing"])

    with HangUps(server.grpc_url, server.http_url, IMAGE, every_s=0.001) as hang_ups:
        wait_until(
            lambda: len(hang_ups.counts) == 4 and hang_ups.counts.total() >= 60,
            "too few clients",
            timeout_s=120,
        )
    wait_until(is_idle, "requests are left", timeout_s=120)
    assert "tritonserver.pid" in sampler.sample()


def test_warm_up_sends_every_batch_size_to_both_encoders(server):
    with count_calls(server, "grpc") as calls:
        warm_up_batch_sizes(calls.url, IMAGE, largest=3)
    sent = Counter()
    for body in calls.bodies:
        request = ModelInferRequest.FromString(body)
        sent[request.model_name, tuple(request.inputs[0].shape)] += 1
    models = ("clip_image_embedding", "clip_text_embedding")
    assert sent == {(model, (1, size)): ROUNDS for model in models for size in (1, 2, 3)}
