"""The proxy of docker/nginx in front of the real server: forwarded requests, limits, TLS."""

import functools
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import metric, together
from tests.helpers.clients import BOTH_PROTOCOLS
from tests.helpers.nginx_proxy import NGINX, PATIENCE_S, VARIABLE, Proxy, defaults, require_nginx
from tests.helpers.pictures import encode, noise
from tests.helpers.waiting import wait_until
from tritonclip import Client, InvalidInputError, ServerUnavailableError

INFER = "/v2/models/clip_text_embedding/infer"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", autouse=True)
def nginx():
    require_nginx()


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    """Run the proxy in front of the shared server."""
    with Proxy(server.http_url, server.grpc_url, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def test_nginx_accepts_the_templates(server, tmp_path):
    checked = Proxy(server.http_url, server.grpc_url, tmp_path).check()
    assert checked.returncode == 0
    assert checked.stderr.count("\n") == 2
    assert "syntax is ok" in checked.stderr
    assert "test is successful" in checked.stderr


def test_template_variables_have_defaults_and_are_documented():
    variables = set(VARIABLE.findall((NGINX / "templates" / "tritonclip.conf.template").read_text()))
    readme = (NGINX / "README.md").read_text(encoding="utf-8")
    assert variables == set(defaults())
    assert all(f"`{name}`" in readme for name in variables | {"TLS_CERT", "TLS_KEY"})


@BOTH_PROTOCOLS
def test_client_works_through_the_proxy(make, protocol, proxy):
    client = make(proxy.url(protocol), timeout_s=PATIENCE_S)
    image = encode(noise(900, 700), "PNG")
    assert len(client.classify([image] * 5, ["a", "b"])) == 5
    assert client.embed_texts(["ein größerer Kreis"] * 3000).shape == (3000, 512)
    assert client.health().ok
    assert {one.name for one in client.models()} >= {"clip_zero_shot", "clip_text_embedding"}
    assert {one.name for one in client.statistics()} >= {"clip_zero_shot", "text_encoder"}
    with pytest.raises(InvalidInputError, match="image 0 .*not an image"):
        client.embed_images([b"no image"])


@BOTH_PROTOCOLS
def test_answers_equal_those_without_the_proxy(make, protocol, proxy, url):
    image = encode(noise(300, 200), "JPEG")
    through, direct = (make(one).embed_images(image) for one in (proxy.url(protocol), url))
    np.testing.assert_array_equal(through, direct)


@BOTH_PROTOCOLS
def test_request_at_the_size_limit_of_the_models_passes(make, protocol, proxy):
    images = [encode(noise(8, 8), "PNG") + bytes(16_000_000)] * 4  # bytes after the end of a PNG are ignored
    assert make(proxy.url(protocol), timeout_s=PATIENCE_S).embed_images(images).shape == (4, 512)


@pytest.mark.parametrize(
    "path",
    ["", "/health/live", "/health/ready", "/models/stats"]
    + [f"/models/clip_zero_shot{part}" for part in ("", "/ready", "/config", "/stats", "/versions/1")],
)
def test_open_paths_are_forwarded(proxy, path):
    assert proxy.http("GET", f"/v2{path}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/v2/repository/index",
        "/v2/repository/models/clip_zero_shot/unload",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/region/a/register",
        "/v2/trace/setting",
        "/v2/models/clip_zero_shot/trace/setting",
        "/v2/logging",
        "/v2/models/clip_zero_shot/generate",
        "/v2/models/vision_encoder/infer",
        "/v2/models/clip_zero_shot/../../repository/index",
        "/v2/models/..%2F..%2Frepository/infer",
        "/v2/models/a%0d%0aadmin-key:%20b/infer",
        "/json/v2/models/clip_text_embedding/infer",
        "/binary/v2/models/clip_text_embedding/infer",
        "/error",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_return_404_even_with_the_key(server, proxy, path, method):
    status, body = proxy.http(method, path, headers={**JSON, "admin-key": server.admin_key})
    assert status == 404
    assert json.loads(body) == {"error": "unknown path, or a path that the proxy does not forward"}


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_return_405(proxy, method):
    assert proxy.http(method, INFER)[0] == 405
    assert proxy.http(method, "/v2")[0] == 405


@pytest.mark.parametrize("call", ["get_model_repository_index", "get_log_settings", "get_trace_settings"])
def test_other_grpc_methods_are_unimplemented_even_with_the_key(server, proxy, call):
    key = {"triton-grpc-protocol-admin-key": server.admin_key}
    with (
        tritonclient.grpc.InferenceServerClient(proxy.grpc_url) as client,
        pytest.raises(InferenceServerException, match="the proxy forwards neither this method") as caught,
    ):
        getattr(client, call)(headers=key)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_grpc_health_and_metadata_are_forwarded(proxy):
    with tritonclient.grpc.InferenceServerClient(proxy.grpc_url) as client:
        assert client.get_server_metadata().name == "triton"
        assert client.get_model_metadata("clip_zero_shot").name == "clip_zero_shot"
    with grpc.insecure_channel(proxy.grpc_url) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"  # SERVING


def test_long_paths_and_headers_return_json_errors(proxy):
    for path, headers in (("/v2/" + "a" * 20_000, {}), ("/v2", {"a": "b" * 20_000})):
        status, body = proxy.http("GET", path, headers=headers)
        assert status in (400, 414)
        assert set(json.loads(body)) == {"error"}


@BOTH_PROTOCOLS
def test_requests_above_the_rate_limit_are_rejected(server, tmp_path, make, protocol):
    rate = {"REQUESTS_PER_SECOND": "1", "REQUESTS_BURST": "2"}
    with Proxy(server.http_url, server.grpc_url, tmp_path, **rate) as narrow:
        client = make(narrow.url(protocol), attempts=1, timeout_s=PATIENCE_S)
        assert client.embed_texts("a").shape == (512,)

        def is_rejected():
            try:
                client.embed_texts("a")
            except ServerUnavailableError as error:
                assert "too many requests from this address" in str(error)
                return True
            return False

        wait_until(is_rejected, "no request is rejected")


@pytest.mark.variant("overload")
def test_concurrent_http_requests_above_the_limit_are_rejected(server, gate, tmp_path):
    image = encode(noise(30, 20), "PNG")
    with Proxy(server.http_url, server.grpc_url, tmp_path, CONNECTIONS_PER_ADDRESS="2") as narrow:

        def call():
            url = narrow.url("http")
            with Client(url, protocol="http", timeout_s=PATIENCE_S, attempts=1) as client:
                return client.embed_images(image)

        with ThreadPoolExecutor(2) as pool:
            call()  # ends after requests that other tests abandoned
            with gate.closed():
                first = pool.submit(call)
                gate.wait_until_it_holds()
                second = pool.submit(call)
                waiting = functools.partial(metric, server, "nv_inference_pending_request_count")
                wait_until(lambda: waiting(model="vision_encoder") == 1, "the second request does not wait")
                with pytest.raises(ServerUnavailableError, match="too many requests from this address"):
                    call()
            for accepted in (first, second):
                assert "too many requests" not in str(accepted.exception())
        assert call().shape == (512,)


def test_concurrent_grpc_calls_above_the_limit_wait(server, tmp_path):
    image = encode(noise(200, 200), "PNG")
    with (
        Proxy(server.http_url, server.grpc_url, tmp_path, CONNECTIONS_PER_ADDRESS="2") as narrow,
        Client(narrow.url("grpc"), timeout_s=PATIENCE_S, attempts=1) as client,
    ):
        answers = together(12, lambda _: client.embed_images([image] * 4))
    assert [answer.shape for answer in answers] == [(4, 512)] * 12


@BOTH_PROTOCOLS
def test_unreachable_server_is_reported(tmp_path, make, protocol):
    with socket.socket() as bound:  # without a listener
        bound.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{bound.getsockname()[1]}"
        with (
            Proxy(nowhere, nowhere, tmp_path) as alone,
            pytest.raises(ServerUnavailableError, match="behind the proxy cannot be reached"),
        ):
            make(alone.url(protocol), attempts=1).embed_texts("a")


@BOTH_PROTOCOLS
def test_clients_connect_with_tls(server, certificates, tmp_path, make, protocol):
    tls = {"TLS_CERT": certificates.certificate, "TLS_KEY": certificates.key}
    with Proxy(server.http_url, server.grpc_url, tmp_path, tls) as secure:
        scheme = {"grpc": "grpcs", "http": "https"}[protocol]
        client = make(f"{scheme}://{secure.url(protocol)}", ca_file=certificates.ca)
        assert client.embed_texts("a").shape == (512,)
