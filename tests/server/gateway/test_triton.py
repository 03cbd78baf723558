"""Triton's HTTP API at the gateway: the command and the clients give the same there as at Triton."""

import asyncio
import json

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.helpers.command import run_command
from tests.helpers.gateway import KEY, metric
from tests.helpers.servers import ROOT
from tritonclip import AccessDeniedError, AsyncClient, Client, InvalidInputError, ZeroShotClassifier

IMAGES = ROOT / "scripts" / "demo" / "images"
CIRCLE, SEVEN = IMAGES / "red_circle.jpg", IMAGES / "digit_7.jpg"
LABELS = ["a red circle", "the digit 7", "a blue square"]
ALONE = ("--batch-size", "1", "--concurrency", "1")
LONG = "word " * 90


def infer(gateway, model="clip_text_embedding", **body):
    return gateway.request("POST", f"/v2/models/{model}/infer", json=body)


def texts(*values, **members):
    return {"name": "text", "shape": [1, len(values)], "datatype": "BYTES", "data": [*values], **members}


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", CIRCLE, SEVEN, *LABELS, *ALONE),
        ("classify", CIRCLE, *LABELS, "--jsonl", *ALONE),
        ("classify", CIRCLE, SEVEN, *LABELS, "--csv", "--top-k", "2", *ALONE),
        ("classify", CIRCLE, *LABELS, "--template", "{}", "--template", "a photo of {}", *ALONE),
        ("classify", CIRCLE, *LABELS, "--preprocess", "client", *ALONE),
        ("classify", CIRCLE, ROOT / "Makefile", SEVEN, "a red circle", LONG, *ALONE),
        ("classify", CIRCLE, "-l", "a", "-l", "x" * 200_000, *ALONE),
        ("classify", CIRCLE, *ALONE),
        ("similarity", CIRCLE, SEVEN, "a red circle", "a blue square", "--csv", *ALONE),
        ("embed", CIRCLE, SEVEN, "--jsonl", *ALONE),
        ("embed", "--text", "a red circle", LONG, "--csv", *ALONE),
        ("models",),
        ("models", "--json"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments))[-60:],
)
def test_command_prints_the_same_as_at_triton(server, open_gateway, arguments):
    direct = run_command(*arguments, "--url", server.grpc_url)
    through = run_command(*arguments, "--url", open_gateway.url)
    for one in (direct, through):
        assert "\x1b" not in one.stdout
    expected = direct.stderr.replace(f"grpc://{server.grpc_url}", open_gateway.url)
    assert (through.returncode, through.stdout, through.stderr) == (
        direct.returncode,
        direct.stdout,
        expected,
    )


def test_files_are_the_same_as_from_triton(server, open_gateway, tmp_path):
    written = []
    for name, url in (("triton", server.grpc_url), ("gateway", open_gateway.url)):
        file = tmp_path / f"{name}.jsonl"
        command = ("classify", IMAGES, *LABELS, "-o", file, "--url", url, *ALONE)
        assert run_command(*command).returncode == 0
        written.append(file.read_bytes())
    assert written[0] == written[1] and written[0].count(b"\n") > 5


def test_health_of_the_gateway_is_that_of_triton(server, open_gateway):
    found = [
        json.loads(run_command("health", "--deep", "--json", "--url", url).stdout)
        for url in (server.grpc_url, open_gateway.url)
    ]
    for one in found:
        one["endpoints"][0].pop("endpoint")
    assert found[0] == found[1] and found[0]["ok"]


def test_clients_give_the_same_as_at_triton(open_gateway, direct):
    async def classify():
        async with AsyncClient(open_gateway.url) as client:
            return await client.classify([CIRCLE, SEVEN], LABELS)

    expected = direct.classify([CIRCLE, SEVEN], LABELS)
    with Client(open_gateway.url) as client:
        for found in (client.classify([CIRCLE, SEVEN], LABELS), asyncio.run(classify())):
            for one, wanted in zip(found, expected, strict=True):
                scores = [each["score"] for each in wanted]
                assert [each["score"] for each in one] == pytest.approx(scores, abs=1e-5)
        classifier = ZeroShotClassifier(client, LABELS, templates=["{}", "a photo of {}"])
        assert classifier(CIRCLE)[0]["label"] == "a red circle"
        assert {one.name for one in client.statistics()} >= {"clip_zero_shot", "vision_encoder"}


def test_key_is_required_and_named(gateway_with_keys):
    with Client(gateway_with_keys.url, attempts=1) as client:
        with pytest.raises(AccessDeniedError, match="the API key is missing"):
            client.classify(CIRCLE, LABELS)
        health = client.health()
        assert not health.live and "the API key is missing" in health.reason
    with Client(gateway_with_keys.url, api_key=KEY) as client:
        assert client.classify(CIRCLE, LABELS)[0]["label"] == "a red circle"
    done = run_command("classify", CIRCLE, *LABELS, "--url", gateway_with_keys.url, "--api-key", "wrong")
    assert done.returncode == 1 and "the API key is not valid" in done.stderr


def test_too_many_images_are_an_error_with_the_limit(open_gateway):
    with (
        Client(open_gateway.url) as client,
        pytest.raises(InvalidInputError, match="too many images") as caught,
    ):
        client.embed_images([CIRCLE] * 257)
    assert (caught.value.field, caught.value.limit) == ("images", 256)


def test_error_has_tritons_own_text(server, open_gateway):
    body = texts("a", " ")
    replies = [infer(open_gateway, inputs=[body])]
    with triton.InferenceServerClient(server.http_url) as client:
        tensor = triton.InferInput("text", [1, 2], "BYTES")
        tensor.set_data_from_numpy(np.array([[b"a", b" "]], np.object_))
        with pytest.raises(InferenceServerException) as caught:
            client.infer("clip_text_embedding", [tensor])
    assert replies[0].status == 400
    assert replies[0].json()["error"] in caught.value.message()


def test_json_and_binary_tensors_are_read_and_written(open_gateway, direct):
    values = ["a red circle", "é"]
    expected = direct.embed_texts(values)
    with triton.InferenceServerClient(open_gateway.url.removeprefix("http://")) as client:
        for binary_in in (False, True):
            for binary_out in (False, True):
                tensor = triton.InferInput("text", [1, 2], "BYTES")
                encoded = [[value.encode() for value in values]]
                tensor.set_data_from_numpy(np.array(encoded, np.object_), binary_data=binary_in)
                outputs = [triton.InferRequestedOutput("text_embeds", binary_data=binary_out)]
                answer = client.infer("clip_text_embedding", [tensor], outputs=outputs, request_id="7")
                np.testing.assert_allclose(answer.as_numpy("text_embeds")[0], expected, atol=1e-6)
                assert answer.get_response()["id"] == "7"
        answer = client.infer("clip_text_embedding", [tensor])
        assert answer.as_numpy("token_counts").shape == (1, 2)
    reply = infer(open_gateway, inputs=[texts(*values)]).json()
    assert {"text_embeds", "token_counts", "token_limit"} <= {one["name"] for one in reply["outputs"]}
    nested = infer(open_gateway, inputs=[texts(*values, data=[values])]).json()
    first, second = ({one["name"]: one["data"] for one in each["outputs"]} for each in (reply, nested))
    assert first["text_embeds"] == second["text_embeds"]


def test_images_and_texts_are_counted(open_gateway):
    before = [metric(open_gateway, name) for name in (METRIC_IMAGES, METRIC_TEXTS)]
    with Client(open_gateway.url) as client:
        client.classify([CIRCLE, SEVEN], LABELS)
    after = [metric(open_gateway, name) for name in (METRIC_IMAGES, METRIC_TEXTS)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 3]


METRIC_IMAGES, METRIC_TEXTS = "tritonclip_gateway_images_total", "tritonclip_gateway_texts_total"
BINARY = {"binary_data_size": 9}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "expected 1 inputs (text) for model 'clip_text_embedding' and no other data, got 0"),
        ([texts("a"), texts("a")], "unexpected inference input 'text'"),
        ([texts("a", name="labels")], "unexpected inference input 'labels' for model"),
        ([texts("a", datatype="FP32")], "input 'text': expected BYTES [1, -1], got 'FP32' '[1, 1]'"),
        ([texts("a", shape=[2, 1])], "expected BYTES [1, -1]"),
        ([texts("a", shape=[1, -1])], "expected BYTES [1, -1]"),
        ([texts("a", shape=[1, 2])], "input 'text': 1 values, but its shape needs 2"),
        ([texts(3)], "input 'text': expected strings"),
        ([texts(["a"], "b")], "input 'text': its data mixes lists and values"),
        ([texts("a", data=None)], "it has neither data nor binary_data_size"),
        ([texts("a", data=None, parameters=BINARY)], "binary_data_size is 9, but the body has only 0 more"),
        ([texts("a", shape=[1, 10_001])], "too many texts: 10001 in one request, the limit is 10000"),
    ],
)
def test_wrong_tensor_is_named(open_gateway, inputs, message):
    reply = infer(open_gateway, inputs=inputs)
    assert reply.status == 400, reply.data
    assert message in reply.json()["error"]


def test_wrong_binary_tensor_is_named(open_gateway):
    head = json.dumps({"inputs": [texts("a", data=None, parameters={"binary_data_size": 6})]}).encode()
    path = "/v2/models/clip_text_embedding/infer"
    for body, length, message in (
        (head + b"\x05\0\0\0ab", len(head), "its 6 bytes do not fit BYTES [1, 1]"),
        (head + b"\x02\0\0\0abc", len(head), "no other data, got 1 inputs and 1 further bytes"),
        (head, "x", "Inference-Header-Content-Length: expected the length of the JSON"),
        (head, len(head) + 1, "expected the length of the JSON, at most"),
    ):
        headers = {"Inference-Header-Content-Length": str(length)}
        reply = open_gateway.request("POST", path, body=body, headers=headers)
        assert reply.status == 400, reply.data
        assert message in reply.json()["error"]


def test_unknown_names_are_errors(open_gateway):
    reply = infer(open_gateway, "vision_encoder", inputs=[])
    assert (reply.status, reply.json()["error"]) == (
        404,
        "Request for unknown model: 'vision_encoder' is not found",
    )
    assert open_gateway.request("GET", "/v2/models/nothing/config").status == 404
    reply = infer(open_gateway, inputs=[texts("a")], outputs=[{"name": "none"}])
    assert (reply.status, "unexpected inference output 'none'" in reply.json()["error"]) == (400, True)
