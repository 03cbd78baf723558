"""Options of a call other than its tensors, as a model receives them and as they are sent."""

import json
from contextlib import closing

import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tests.helpers.network import Forwarder, count_calls
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tritonclip import Client

FORWARDED = "(?i)(?:x-.*|authorization)"
MODEL = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.path = json.loads(args["model_config"])["parameters"]["record"]["string_value"]

    def execute(self, requests):
        responses = []
        for request in requests:
            seen = {"parameters": json.loads(request.parameters()), "id": request.request_id()}
            seen["queue_timeout_us"] = request.timeout()
            with open(self.path, "a", encoding="utf-8") as file:
                print(json.dumps(seen), file=file)
            texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            embeds = np.zeros((*texts.shape, 4), np.float32)
            embeds[..., 0] = 1
            tensors = [
                pb_utils.Tensor("text_embeds", embeds),
                pb_utils.Tensor("token_counts", np.ones(texts.shape, np.int32)),
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
"""


class Recorder:
    """A server whose text embedding is a model that records the options of each request."""

    def __init__(self, server, path):
        self.server, self._path = server, path

    def one(self):
        """Return the options of the only request since the last call."""
        (line,) = self._path.read_text(encoding="utf-8").splitlines()
        self._path.write_text("")
        return json.loads(line)


@pytest.fixture(scope="module")
def recorder(servers, tmp_path_factory):
    models = tmp_path_factory.mktemp("recorder")
    record = models / "record.jsonl"
    served = (ROOT / "model_repository/clip_text_embedding/config.pbtxt").read_text(encoding="utf-8")
    config = served.partition("ensemble_scheduling")[0].replace('platform: "ensemble"', 'backend: "python"')
    config += f'parameters {{ key: "record" value {{ string_value: "{record}" }} }}\n'
    directory = models / "clip_text_embedding"
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(config, encoding="utf-8")
    (directory / "1" / "model.py").write_text(MODEL, encoding="utf-8")
    flags = {f"{protocol}-header-forward-pattern": FORWARDED for protocol in ("grpc", "http")}
    with servers.run(models, "a model that records the options of its requests", flags=flags) as running:
        yield Recorder(running, record)


@pytest.fixture
def connect(make, protocol):
    return lambda server, **options: make(address(server, protocol), **options)


def address(server, protocol):
    return server.grpc_url if protocol == "grpc" else server.http_url


def test_model_receives_the_time_left_until_the_deadline(connect, recorder):
    client = connect(recorder.server, timeout_s=1000)
    client.embed_texts("a")
    assert 500_000 < recorder.one()["parameters"]["deadline_ms"] <= 1_000_000
    client.embed_texts("a", timeout_s=500)
    seen = recorder.one()
    assert 0 < seen["parameters"]["deadline_ms"] <= 500_000
    # Triton's own timeout limits the queue and stalls the batcher, so it must not be set.
    assert seen["queue_timeout_us"] == 0


def test_model_receives_the_request_id(connect, recorder):
    client = connect(recorder.server)
    client.embed_texts("a", request_id="job 7/ä")
    assert recorder.one()["id"] == "job 7/ä"
    client.embed_texts("a")
    assert recorder.one()["id"] == ""


def test_model_receives_headers_of_the_client_and_of_the_call(connect, recorder):
    client = connect(recorder.server, headers={"X-Team": "search", "X-Both": "client"}, api_key="secret")
    client.embed_texts("a", headers={"X-Both": "call", "X-Trace": "42"})
    first = recorder.one()["parameters"]
    assert first.items() >= {"x-team": "search", "x-both": "call", "x-trace": "42"}.items()
    assert first["authorization"] == "Bearer secret"
    client.embed_texts("a")
    second = recorder.one()["parameters"]
    assert second["x-both"] == "client"
    assert "x-trace" not in second


def test_priority_is_sent_and_accepted(make, protocol, recorder):
    with count_calls(recorder.server, protocol) as calls:
        client = make(calls.url)
        for priority in (0, 1, 2**32 - 1):
            assert client.embed_texts("a", priority=priority).shape == (4,)
            recorder.one()
    assert [priority_of(calls, number, protocol) for number in range(3)] == [0, 1, 2**32 - 1]


def priority_of(calls, number, protocol):
    if protocol == "grpc":
        return ModelInferRequest.FromString(calls.bodies[number]).parameters["priority"].uint64_param
    header = int(calls.seen[number]["inference-header-content-length"])
    return json.loads(calls.bodies[number][:header])["parameters"].get("priority", 0)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_texts_get_equal_answers_with_fewer_bytes(make, url, compression):
    texts = ["a photo of a cat, " * 5 + str(number) for number in range(200)]
    sent = {}
    answers = {}
    for method in (None, compression):
        with Forwarder(url) as forwarder:
            client = make(forwarder.address, compression=method, timeout_s=60)
            answers[method] = client.embed_texts(texts)
            sent[method] = forwarder.received_bytes
    np.testing.assert_array_equal(answers[compression], answers[None])
    assert sent[None] > 200 * 90
    assert sent[compression] < sent[None] / 4


def test_compressed_images_are_accepted(connect, server):
    image = encode(noise(64, 64), "PNG")
    with closing(Client(server.grpc_url)) as plain:
        expected = plain.embed_images(image)
    np.testing.assert_allclose(connect(server, compression="gzip").embed_images(image), expected, atol=1e-6)


def test_nothing_is_compressed_by_default(make, protocol, server):
    with count_calls(server, protocol) as calls:
        make(calls.url).embed_texts("a")
    (headers,) = calls.seen
    assert "content-encoding" not in headers
    assert headers.get("accept-encoding", "identity") == "identity" or protocol == "grpc"
