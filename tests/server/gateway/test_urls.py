"""Images by URL: switched off, or fetched from public hosts only. The web server here is on loopback."""

import http.server
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.calls import together
from tests.helpers.gateway import run_gateway
from tests.helpers.servers import ROOT

CIRCLE = (ROOT / "scripts/demo/images/red_circle.jpg").read_bytes()
LABELS = ["a red circle", "the digit 7"]

FORGED = [
    "http://127.0.0.1/",
    "http://localhost/latest",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://192.168.1.1/admin",
    "http://172.16.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/iam/",
    "http://[fd00:ec2::254]/",
    "http://[64:ff9b::7f00:1]/",
    "http://no-such-host.invalid/a.png",
]


class _Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        body = {"/circle.jpg": CIRCLE, "/page.html": b"<html>", "/huge": b"x" * (21 * 2**20)}.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        try:
            self.wfile.write(body or b"")
        except OSError:  # the gateway stops reading once the file is too large
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    """Start a web server on loopback and return its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def guarded(server, host):
    """Start a gateway that fetches from public hosts, also at the web server's port."""
    with run_gateway(server.grpc_url, "--allow-urls", "--url-port", 80, "--url-port", host) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def trusting(server, host):
    """Start a gateway that may fetch from this machine."""
    options = ("--allow-urls", "--url-network", "127.0.0.1/32", "--url-port", host)
    with run_gateway(server.grpc_url, *options) as gateway:
        yield gateway


def classify(gateway, *urls):
    return gateway.post("/v1/classify", images=list(urls), labels=LABELS)


def test_image_is_fetched_from_an_allowed_network(trusting, host):
    reply = classify(trusting, f"http://127.0.0.1:{host}/circle.jpg")
    assert reply.status == 200, reply.data
    assert reply.json()["results"][0]["predictions"][0]["label"] == "a red circle"
    embedded = trusting.post("/v1/embeddings", input=f"http://127.0.0.1:{host}/circle.jpg", modality="image")
    assert embedded.status == 200
    form = [("images", f"http://127.0.0.1:{host}/circle.jpg"), *(("labels", label) for label in LABELS)]
    assert trusting.request("POST", "/v1/classify", fields=form).status == 200
    moved = classify(trusting, f"http://127.0.0.1:{host}/to//circle.jpg")
    assert moved.status == 200, moved.data


@pytest.mark.parametrize("url", FORGED)
def test_private_address_is_rejected(guarded, url):
    reply = classify(guarded, url)
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["param"] == "images[0]"
    assert "is not public or not known; give the URL of a public image" in error["message"]


def test_open_and_closed_ports_get_the_same_error(guarded, host):
    _Handler.asked.clear()
    answers = set()
    for port in (host, 80):
        message = classify(guarded, f"http://127.0.0.1:{port}/circle.jpg").json()["error"]["message"]
        answers.add(message.replace(f":{port}", ""))
    assert len(answers) == 1
    assert _Handler.asked == []


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/", "http://10.0.0.1/", "//[::1]/", "file:///etc/passwd", "gopher://a/"]
)
def test_redirect_to_a_private_address_is_rejected(trusting, host, target):
    reply = classify(trusting, f"http://127.0.0.1:{host}/to/{target}")
    assert reply.status == 400, reply.data
    assert reply.json()["error"]["param"] == "images[0]"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.com/a.png", "../../etc/passwd", "cat.jpg"]
)
def test_other_schemes_and_paths_are_never_opened(guarded, url):
    reply = classify(guarded, url)
    assert reply.status == 400
    assert "is not valid base64" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/page.html", "is not an image in a format accepted here"),
        ("/missing", "answered with status 404"),
        ("/huge", "is larger than 20971520 bytes"),
    ],
)
def test_unusable_response_is_reported_for_its_image(trusting, host, path, message):
    reply = classify(trusting, f"http://127.0.0.1:{host}{path}", f"http://127.0.0.1:{host}/circle.jpg")
    assert reply.status == 200, reply.data
    wrong, right = reply.json()["results"]
    assert message in wrong["error"]["message"]
    assert right["predictions"][0]["label"] == "a red circle"


def test_unresponsive_host_delays_no_other_request(server):
    """While 24 requests wait for a host that accepts connections and says nothing, others are answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, ThreadPoolExecutor(24) as pool:
        port = silent.getsockname()[1]
        options = ("--allow-urls", "--url-network", "127.0.0.1/32", "--url-port", port)
        with run_gateway(server.grpc_url, *options) as gateway:
            url = f"http://127.0.0.1:{port}/"
            stalled = [pool.submit(classify, gateway, url) for _ in range(24)]
            connections = [silent.accept()[0] for _ in stalled]
            answered = together(8, lambda _: gateway.post("/v1/embeddings", input=LABELS, model="clip"))
            assert [reply.status for reply in answered] == [200] * 8
            silent.close()  # first, because the gateway retries a closed connection
            for connection in connections:
                connection.close()
            assert [call.result().status for call in stalled] == [400] * 24


def test_unresponsive_host_is_given_up_at_the_deadline(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = ("--allow-urls", "--url-network", "127.0.0.1/32", "--url-port", port)
        with run_gateway(server.grpc_url, *options) as gateway:
            body = {"images": f"http://127.0.0.1:{port}/", "labels": LABELS}
            reply = gateway.request("POST", "/v1/classify", json=body, headers={"X-Timeout-S": "0.5"})
    assert reply.status in (400, 504)
    assert "timed out" in reply.data.decode() or "deadline" in reply.data.decode()
