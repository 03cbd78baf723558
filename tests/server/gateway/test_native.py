"""The gateway's own API against the real server: results equal the client's, and errors name their field."""

import base64
import json

import numpy as np
import pytest
import urllib3

from tests.helpers.calls import together
from tests.helpers.gateway import metric
from tests.helpers.servers import ROOT
from tests.helpers.waiting import settled, wait_until
from tritonclip import ZeroShotClassifier

IMAGES = ROOT / "scripts" / "demo" / "images"
LABELS = ["a red circle", "the digit 7", "a blue square"]
CIRCLE, SEVEN = IMAGES / "red_circle.jpg", IMAGES / "digit_7.jpg"


def form(*images, **fields):
    """Return the parts of a form: image files, then fields, with one part per list item."""
    parts = [("images", (path.name, path.read_bytes())) for path in images]
    for name, value in fields.items():
        parts += [(name, str(one)) for one in (value if isinstance(value, list) else [value])]
    return parts


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def predictions(reply):
    assert reply.status == 200, reply.data
    return [result["predictions"] for result in reply.json()["results"]]


def same(found, expected):
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-6)


def test_form_returns_the_results_of_the_client(open_gateway, direct):
    reply = open_gateway.request("POST", "/v1/classify", fields=form(CIRCLE, labels=LABELS))
    (found,) = predictions(reply)
    same(found, direct.classify(CIRCLE, LABELS))
    body = reply.json()
    assert body["model"] == direct.models()[0].checkpoint
    assert body["results"][0]["name"] == "red_circle.jpg"
    assert body["usage"]["images"] == 1 and body["usage"]["texts"] == 3
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 15
    assert reply.headers["server-timing"].startswith("triton;dur=")


def test_cosines_come_with_the_same_scores(open_gateway, direct):
    fields = form(CIRCLE, SEVEN, labels=LABELS, cosines="true", top_k="2")
    found = predictions(open_gateway.request("POST", "/v1/classify", fields=fields))
    sentences = [f"This is a photo of {label}." for label in LABELS]
    for image, ranking, cosines in zip(
        (CIRCLE, SEVEN), found, direct.similarity([CIRCLE, SEVEN], sentences), strict=True
    ):
        same(ranking, direct.classify(image, LABELS, top_k=2))
        expected = [cosines[LABELS.index(one["label"])] for one in ranking]
        assert [one["cosine"] for one in ranking] == pytest.approx(expected, abs=1e-6)
    (plain,) = predictions(open_gateway.post("/v1/classify", images=encoded(CIRCLE), labels=LABELS))
    assert "cosine" not in plain[0]


def test_several_templates_give_the_scores_of_the_classifier(open_gateway, direct):
    templates = ["a photo of {}", "This is {}.", "{}"]
    expected = ZeroShotClassifier(direct, LABELS, templates=templates)([CIRCLE, SEVEN], top_k=2)
    for reply in (
        open_gateway.request(
            "POST",
            "/v1/classify",
            fields=form(CIRCLE, SEVEN, labels=LABELS, hypothesis_template=templates, top_k=2),
        ),
        open_gateway.post(
            "/v1/classify",
            images=[encoded(CIRCLE), encoded(SEVEN)],
            labels=LABELS,
            hypothesis_template=templates,
            top_k=2,
        ),
    ):
        for found, wanted in zip(predictions(reply), expected, strict=True):
            same(found, wanted)
        assert reply.json()["usage"]["texts"] == len(LABELS)
    one = open_gateway.post("/v1/classify", images=encoded(CIRCLE), labels=LABELS, hypothesis_template=["{}"])
    same(*predictions(one), direct.classify(CIRCLE, LABELS, hypothesis_template="{}"))


def test_long_label_is_named_with_the_template_of_its_longest_sentence(open_gateway):
    labels, templates = ["a red circle", "word " * 90], ["{}", "a photo of {}"]
    reply = open_gateway.post(
        "/v1/classify", images=encoded(CIRCLE), labels=labels, hypothesis_template=templates
    )
    (warning,) = reply.json()["warnings"]
    assert warning.startswith("label 1 has ")
    assert "tokens in the template 'a photo of {}' and was cut at" in warning
    cosines = open_gateway.post("/v1/classify", images=encoded(CIRCLE), labels=labels, cosines=True)
    assert cosines.json()["warnings"][0].startswith("label 1 has ")


@pytest.mark.parametrize(
    "image", [encoded(CIRCLE), f"data:image/jpeg;base64,{encoded(CIRCLE)}"], ids=["base64", "data URI"]
)
def test_json_returns_the_results_of_the_client(open_gateway, direct, image):
    (found,) = predictions(open_gateway.post("/v1/classify", images=image, labels=LABELS))
    same(found, direct.classify(CIRCLE, LABELS))


def test_options_have_the_effect_of_the_client_options(open_gateway, direct):
    options = {"hypothesis_template": "a drawing of {}", "top_k": 2, "threshold": 0.0}
    expected = direct.classify([CIRCLE, SEVEN], LABELS, **options)
    for reply in (
        open_gateway.request("POST", "/v1/classify", fields=form(CIRCLE, SEVEN, labels=LABELS, **options)),
        open_gateway.post("/v1/classify", images=[encoded(CIRCLE), encoded(SEVEN)], labels=LABELS, **options),
    ):
        for found, wanted in zip(predictions(reply), expected, strict=True):
            same(found, wanted)
            assert len(found) == 2


LABEL_RULE = [
    ("a red circle, the digit 7", ["a red circle", "the digit 7"]),
    ('["a red circle, big", "the digit 7"]', ["a red circle, big", "the digit 7"]),
    (["a red circle, big", "the digit 7"], ["a red circle, big", "the digit 7"]),
    (['["a"]', "b, c"], ['["a"]', "b, c"]),
]


@pytest.mark.parametrize(("labels", "ranked"), LABEL_RULE, ids=["string", "array", "list", "literal"])
def test_labels_are_split_by_the_rule_of_the_client(open_gateway, direct, labels, ranked):
    expected = direct.classify(CIRCLE, labels)
    assert sorted(one["label"] for one in expected) == sorted(ranked)
    for reply in (
        open_gateway.request("POST", "/v1/classify", fields=form(CIRCLE, labels=labels)),
        open_gateway.post("/v1/classify", images=encoded(CIRCLE), labels=labels),
    ):
        (found,) = predictions(reply)
        same(found, expected)
        assert reply.json()["warnings"] == []


@pytest.mark.parametrize("fields", [{}, {"labels": None}], ids=["none", "null"])
def test_default_labels_are_ranked_with_a_warning(open_gateway, fields):
    replies = [open_gateway.post("/v1/classify", images=encoded(CIRCLE), **fields)]
    if not fields:
        replies.append(open_gateway.request("POST", "/v1/classify", fields=form(CIRCLE)))
    for reply in replies:
        (found,) = predictions(reply)
        assert {one["label"] for one in found} == {"object", "animal", "vehicle", "person", "food"}
        (warning,) = reply.json()["warnings"]
        assert warning.startswith("no labels were given; ranked the default labels: object, animal")


def test_single_label_has_a_warning(open_gateway):
    for labels in ("a red circle", ["a red circle, or not"]):
        reply = open_gateway.post("/v1/classify", images=encoded(CIRCLE), labels=labels)
        assert predictions(reply)[0][0]["score"] == 1
        assert "its score is 1 whatever the image shows" in reply.json()["warnings"][0]


def test_form_field_of_texts_may_be_a_json_array(open_gateway):
    for texts, number in (('["a, b", "c"]', 2), ("a, b", 1), ("[a", 1)):
        reply = open_gateway.request("POST", "/v1/similarity", fields=form(CIRCLE, texts=texts))
        assert reply.status == 200, reply.data
        assert len(reply.json()["texts"]) == number


def test_large_answer_needs_top_k_and_a_smaller_one_is_streamed(open_gateway, direct):
    labels = [f"label {number % 20}" for number in range(9000)]
    images = [encoded(CIRCLE), encoded(SEVEN), encoded(CIRCLE)]
    rejected = open_gateway.post("/v1/classify", images=images * 14, labels=labels)
    assert rejected.status == 400
    assert rejected.json()["error"]["param"] == "top_k"
    assert "9000 labels for each of 42 images make an answer of about" in rejected.json()["error"]["message"]
    top = open_gateway.post("/v1/classify", images=images * 14, labels=labels, top_k=2)
    assert [len(found) for found in predictions(top)] == [2] * 42
    streamed = open_gateway.post("/v1/classify", images=images, labels=labels)
    for found, wanted in zip(
        predictions(streamed), direct.classify([CIRCLE, SEVEN, CIRCLE], labels), strict=True
    ):
        scores = [one["score"] for one in wanted]
        assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-6)
    assert "content-length" not in streamed.headers
    assert streamed.json()["usage"]["texts"] == 9000


def test_streamed_similarity_equals_the_client(open_gateway, direct):
    texts = [f"label {number % 20}" for number in range(9000)]
    reply = open_gateway.request(
        "POST", "/v1/similarity", fields=form(CIRCLE, ROOT / "Makefile", SEVEN, texts=texts)
    )
    first, failed, last = reply.json()["results"]
    assert failed["error"]["param"] == "images[1]"
    found = [first["similarities"], last["similarities"]]
    np.testing.assert_allclose(found, direct.similarity([CIRCLE, SEVEN], texts), atol=1e-6)


def test_each_image_has_a_result_or_an_error(open_gateway, direct):
    images = [CIRCLE, ROOT / "README.md", SEVEN]
    parts = form(*images, labels=LABELS)
    parts.insert(2, ("images", "not base64!"))
    parts.insert(3, ("images", ("empty.png", b"")))
    reply = open_gateway.request("POST", "/v1/classify", fields=parts)
    assert reply.status == 200, reply.data
    results = reply.json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert [result["name"] for result in results] == [
        "red_circle.jpg",
        "README.md",
        None,
        "empty.png",
        "digit_7.jpg",
    ]
    same(results[0]["predictions"], direct.classify(CIRCLE, LABELS))
    same(results[4]["predictions"], direct.classify(SEVEN, LABELS))
    for index in (1, 2, 3):
        error = results[index]["error"]
        assert error["message"].startswith(f"image {index}"), error
        assert (error["param"], error["index"], error["limit"]) == (f"images[{index}]", index, None)
        assert error["code"] == "invalid_input"
    assert reply.json()["usage"]["images"] == 2


def test_many_images_are_split_into_several_inferences(open_gateway, direct):
    several = [CIRCLE, SEVEN, IMAGES / "blue_square.webp"]
    found = predictions(
        open_gateway.request("POST", "/v1/classify", fields=form(*several * 11, labels=LABELS))
    )
    assert len(found) == 33
    expected = direct.classify(several, LABELS)
    for one, wanted in zip(found, expected * 11, strict=True):
        same(one, wanted)


def test_error_holds_all_results_if_every_image_fails(open_gateway):
    reply = open_gateway.request(
        "POST", "/v1/classify", fields=form(ROOT / "README.md", ROOT / "Makefile", labels=LABELS)
    )
    assert reply.status == 400
    body = reply.json()
    assert body["error"] == body["results"][0]["error"]
    assert [result["error"]["param"] for result in body["results"]] == ["images[0]", "images[1]"]


def test_similarity_equals_the_client(open_gateway, direct):
    expected = direct.similarity([CIRCLE, SEVEN], LABELS)
    for reply in (
        open_gateway.request("POST", "/v1/similarity", fields=form(CIRCLE, SEVEN, texts=LABELS)),
        open_gateway.post("/v1/similarity", images=[encoded(CIRCLE), encoded(SEVEN)], texts=LABELS),
    ):
        assert reply.status == 200, reply.data
        body = reply.json()
        assert body["texts"] == LABELS
        np.testing.assert_allclose([one["similarities"] for one in body["results"]], expected, atol=1e-6)


def test_truncated_texts_are_reported_as_warnings(open_gateway):
    reply = open_gateway.post("/v1/classify", images=encoded(CIRCLE), labels=["a red circle", "word " * 90])
    (warning,) = reply.json()["warnings"]
    assert warning.startswith("label 1 has ")
    many = open_gateway.post(
        "/v1/classify", images=[encoded(CIRCLE)] * 2, labels=["a red circle", "word " * 90]
    )
    assert many.json()["warnings"] == [warning]
    assert many.json()["usage"] == reply.json()["usage"] | {"images": 2}
    texts = open_gateway.post("/v1/similarity", images=encoded(CIRCLE), texts="word " * 90)
    assert texts.json()["warnings"][0].startswith("text 0 has ")


BAD = [
    ({"images": []}, "images", "images: none given"),
    ({"images": "x", "labels": []}, "labels", "labels"),
    ({"images": "x", "labels": ["a", " "]}, "labels[1]", "label 1: it is blank"),
    ({"images": "x", "labels": ["a", 3]}, "labels[1]", "labels[1]: Input should be a valid string"),
    ({"images": 3}, "images", "images: Input should be a valid list"),
    ({}, "images", "images: Field required"),
    ({"images": "x", "label": ["a"]}, "label", "label: there is no such field"),
    ({"images": "x", "top_k": 0}, "top_k", "top_k"),
    ({"images": "x", "threshold": 2}, "threshold", "threshold"),
    ({"images": "x", "hypothesis_template": "no place"}, "hypothesis_template", "hypothesis_template"),
    ({"images": "x", "hypothesis_template": []}, "hypothesis_template", "the list is empty"),
    (
        {"images": "x", "hypothesis_template": ["{}", "none"]},
        "hypothesis_template",
        "'none': expected exactly",
    ),
    ({"images": "x", "hypothesis_template": ["{}", 3]}, "hypothesis_template[1]", "a valid string"),
    (
        {"images": "x", "labels": ["a"] * 6000, "hypothesis_template": ["{}", "a {}"]},
        "labels",
        "labels: 6000 in 2 templates make 12000 sentences, at most 10000 per request",
    ),
    ({"images": "x", "hypothesis_template": "x" * 2000}, "hypothesis_template", "over the limit of 1000"),
    (
        {"images": "x", "labels": ["a"] * 9000, "hypothesis_template": "{}" + "x" * 950},
        "labels",
        "labels: 9000 in a template of 952 characters make 8577000 characters, at most 8388608",
    ),
    ({"images": "x", "labels": ["data:image/png;base64,AAAA", "b"]}, "labels[0]", "a data: URI of an image"),
    ({"images": ["AAAA"] * 257}, "images", "images: 257 given, at most 256"),
    ({"images": "x", "labels": ["a"] * 10001}, "labels", "labels: 10001 given, at most 10000"),
    (
        {"images": "http://example.com/a.png", "labels": ["a", "b"]},
        "images[0]",
        "image 0: URLs are not fetched here",
    ),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_invalid_field_is_named(open_gateway, body, param, message):
    reply = open_gateway.post("/v1/classify", **body)
    assert reply.status == 400, reply.data
    error = reply.json()["error"]
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


JSON, FORM = "application/json", "multipart/form-data; boundary=x"
NAMED = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="labels"; filename="a"\r\n\r\nb\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"a=b", "application/x-www-form-urlencoded", 415, "expected multipart/form-data or application"),
        (b"{}", None, 415, "content-type ''"),
        (b"{", JSON, 400, "Invalid JSON"),
        (b"", JSON, 400, "should be an object"),
        (b"[" * 100_000, JSON, 400, "Invalid JSON"),
        (b'{"images": "x", "threshold": NaN}', JSON, 400, "threshold"),
        (b'{"images": "\xff"}', JSON, 400, "Invalid JSON"),
        (b"", "multipart/form-data", 400, "boundary"),
        (b"nonsense", FORM, 400, "the form is malformed"),
        (b"--x\r\n\r\nno name\r\n--x--\r\n", FORM, 400, "the form is malformed"),
        ((NAMED % (b"images", b"cut"))[:-2], FORM, 400, "images: none"),
        (FILE, FORM, 400, "unexpected file in field 'labels'"),
        (NAMED % (b"top_k", b"1") + NAMED % (b"top_k", b"2") + b"--x--\r\n", FORM, 400, "top_k"),
    ],
)
def test_malformed_body_is_rejected(open_gateway, body, kind, status, message):
    reply = open_gateway.request(
        "POST", "/v1/classify", body=body, headers={"Content-Type": kind} if kind else {}
    )
    assert reply.status == status, reply.data
    assert message in reply.json()["error"]["message"]


def test_compressed_body_is_rejected(open_gateway):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    reply = open_gateway.request("POST", "/v1/classify", body=b"x", headers=headers)
    assert reply.status == 415
    assert "content-encoding 'gzip' is not supported" in reply.json()["error"]["message"]


def test_unknown_path_gets_404_and_wrong_method_405(open_gateway):
    reply = open_gateway.request("GET", "/v1/nothing")
    assert (reply.status, reply.json()["error"]["code"]) == (404, "not_found")
    reply = open_gateway.request("GET", "/v1/classify")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert "use POST" in reply.json()["error"]["message"]


def test_health_and_limits_are_reported(open_gateway):
    assert open_gateway.request("GET", "/healthz").json() == {"status": "ok"}
    ready = open_gateway.request("GET", "/readyz")
    assert (ready.status, ready.json()) == (200, {"status": "ready", "inference": "ok", "reason": None})
    info = open_gateway.request("GET", "/v1/info").json()
    assert info["keys_required"] is False and info["url_input"] is False and info["max_images"] == 256


def test_every_response_has_security_headers(open_gateway):
    for path in ("/", "/docs", "/static/app.css", "/v1/models", "/nothing", "/healthz"):
        headers = open_gateway.request("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_valid_request_id_is_kept_and_others_are_replaced(open_gateway):
    reply = open_gateway.request("GET", "/healthz", headers={"X-Request-ID": "caller-7.a_b"})
    assert reply.headers["x-request-id"] == "caller-7.a_b"
    for bad in ("a b", "x" * 65, 'quote"'):
        made = open_gateway.request("GET", "/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert len(made) == 32


def test_log_describes_a_request_without_its_content(open_gateway):
    headers = {"X-Request-ID": "logged-1"}
    fields = form(IMAGES / "three_orange_triangles.jpg", ROOT / "Makefile", labels=["a secret label", "b"])
    assert open_gateway.request("POST", "/v1/classify", fields=fields, headers=headers).status == 200
    entry = open_gateway.logged(request_id="logged-1", event="request")
    assert entry["status"] == 200 and entry["path"] == "/v1/classify" and entry["method"] == "POST"
    assert entry["images"] == 1 and entry["images_failed"] == 1 and entry["ms"] > 0
    assert not [line for line in open_gateway.lines if "secret label" in line or "three_orange" in line]
    assert all(json.loads(line)["level"] for line in open_gateway.lines)


def test_metrics_count_requests_images_and_texts(open_gateway):
    names = (
        'tritonclip_gateway_requests_total{method="POST",route="/v1/classify",status="200"}',
        'tritonclip_gateway_images_total{result="answered"}',
        'tritonclip_gateway_images_total{result="failed"}',
        "tritonclip_gateway_texts_total",
        'tritonclip_gateway_request_seconds_count{route="/v1/classify"}',
        'tritonclip_gateway_requests_total{method="GET",route="other"',
    )

    def read():
        return [metric(open_gateway, name) for name in names]

    before = settled(read)
    fields = form(CIRCLE, SEVEN, ROOT / "Makefile", labels=LABELS)
    assert open_gateway.request("POST", "/v1/classify", fields=fields).status == 200
    open_gateway.request("GET", "/some/where")

    def grown():
        return [now - was for now, was in zip(read(), before, strict=True)]

    wait_until(lambda: grown() == [1, 2, 1, 3, 1, 1], lambda: f"grown by {grown()}")
    for name in ("requests_in_flight", "body_bytes_in_flight"):
        wait_until(lambda: metric(open_gateway, f"tritonclip_gateway_{name}") == 0, f"{name} is not 0")  # noqa: B023
    assert "process_resident_memory_bytes" in open_gateway.request("GET", "/metrics").data.decode()


def test_concurrent_callers_get_their_own_results(open_gateway, direct):
    expected = {path: direct.classify(path, LABELS) for path in (CIRCLE, SEVEN)}
    pool = urllib3.PoolManager(maxsize=16)

    def call(index):
        path = (CIRCLE, SEVEN)[index % 2]
        return path, pool.request("POST", f"{open_gateway.url}/v1/classify", fields=form(path, labels=LABELS))

    for path, reply in together(16, call):
        (found,) = predictions(reply)
        same(found, expected[path])
    pool.clear()
