"""Fetching from a real local server that responds correctly, incorrectly, slowly or not at all."""

from __future__ import annotations

import base64
import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import tritonclip
from tests.helpers.servers import run_python
from tests.helpers.waiting import wait_until
from tritonclip import InvalidInputError
from tritonclip._images.fetch import Fetcher
from tritonclip._images.urls import is_url

CONTENT = bytes(range(256)) * 1000
LIMIT_BYTES = 300_000
STEP_S = 0.02


class Site(ThreadingHTTPServer):
    """A server that records the requests it receives."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.headers: list[dict[str, str]] = []
        self.connections = self.open_slow = 0
        self.target = ""
        self.stop = threading.Event()

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect early, which the tests do on purpose."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:  # noqa: N802
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        name, _, rest = self.path.split("?")[0].strip("/").partition("/")
        getattr(self, f"_{name}")(rest)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, content: bytes, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def _image(self, rest: str) -> None:
        self._answer(CONTENT)

    def _status(self, rest: str) -> None:
        self._answer(b"a page that explains", int(rest))

    def _empty(self, rest: str) -> None:
        self._answer(b"")

    def _hops(self, rest: str) -> None:
        left = int(rest)
        self._answer(b"", 302, Location=f"/hops/{left - 1}" if left else "../image")

    def _away(self, rest: str) -> None:
        self._answer(b"", 307, Location=self.server.target)

    def _announced(self, rest: str) -> None:
        self._answer(b"", Content_Length=rest)

    def _until_closed(self, rest: str) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT[: int(rest)])

    def _chunked(self, rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(int(rest) // 50_000):
            self.wfile.write(b"%x\r\n%s\r\n" % (50_000, bytes(50_000)))
        self.wfile.write(b"0\r\n\r\n")

    def _gzip(self, rest: str) -> None:
        self._answer(gzip.compress(bytes(int(rest))), Content_Encoding="gzip")

    def _cut(self, rest: str) -> None:
        self.close_connection = True
        self._answer(CONTENT[:100], Content_Length=200)

    def _dropped(self, rest: str) -> None:
        self.close_connection = True

    def _garbage(self, rest: str) -> None:
        self.close_connection = True
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    def _kept_once(self, rest: str) -> None:
        self._answer(CONTENT)
        self.rfile.readline()  # the next request on this connection, which gets no response
        self.close_connection = True

    def _trickle(self, rest: str) -> None:
        """Send the headers, the body or a chunk's size byte by byte until the client disconnects."""
        start = b"HTTP/1.1 200 OK\r\n"
        starts = {
            "head": start + b"X-Long: ",
            "body": start + b"Content-Length: 100000\r\n\r\n",
            "chunks": start + b"Transfer-Encoding: chunked\r\n\r\n1;",
        }
        self.close_connection = True
        self.server.open_slow += 1
        try:
            self.wfile.write(starts[rest])
            while not self.server.stop.wait(STEP_S):
                self.wfile.write(b"x")
        finally:
            self.server.open_slow -= 1


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.stop.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    fetcher = Fetcher(timeout_s=20, max_bytes=LIMIT_BYTES)
    yield fetcher
    fetcher.close()


def fails(fetch: Callable[[], object]) -> str:
    with pytest.raises(InvalidInputError) as caught:
        fetch()
    return str(caught.value)


def test_images_of_one_host_share_a_connection(site: Site, fetcher: Fetcher) -> None:
    assert [fetcher.fetch(f"{site.url}/image?{n}", "image 0") for n in range(3)] == [CONTENT] * 3
    assert site.connections == 1
    assert site.headers[0]["user-agent"] == f"tritonclip/{tritonclip.__version__}"
    assert "image/*" in site.headers[0]["accept"]
    assert "authorization" not in site.headers[0]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("hops/4", CONTENT),
        ("chunked/250000", bytes(250_000)),
        ("until_closed/256000", CONTENT),
        ("gzip/300000", bytes(300_000)),
    ],
)
def test_redirects_and_every_response_framing_are_read(
    site: Site, fetcher: Fetcher, path: str, content: bytes
) -> None:
    assert fetcher.fetch(f"{site.url}/{path}", "image 0") == content


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("status/404", "answered with status 404; check the URL"),
        ("status/503", "answered with status 503; try again later"),
        ("status/304", "answered with status 304"),
        ("empty", "is empty"),
        ("hops/5", "redirects more than 5 times"),
        ("announced/300001", r"is larger than 300000 bytes \(fetch_max_bytes\); raise"),
        ("chunked/350000", "is larger than 300000 bytes"),
        ("gzip/300001", "is larger than 300000 bytes"),
        ("cut", "cannot be fetched: .*100 bytes read"),
        ("dropped", "cannot be fetched: Remote end closed connection"),
        ("garbage", "cannot be fetched: SSH-2.0-OpenSSH_9.2"),
    ],
)
def test_bad_response_raises_an_error_with_its_cause(
    site: Site, fetcher: Fetcher, path: str, cause: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^image 3: '{site.url}/{path}' .*{cause}"):
        fetcher.fetch(f"{site.url}/{path}", "image 3")
    assert fetcher.fetch(f"{site.url}/image", "image 3") == CONTENT


@pytest.mark.parametrize("what", ["head", "body", "chunks"])
@pytest.mark.parametrize("by_call", [False, True])
def test_trickling_response_is_stopped_at_the_limit(site: Site, what: str, by_call: bool) -> None:
    fetcher = Fetcher(timeout_s=20 if by_call else 0.3)
    url = f"{site.url}/trickle/{what}"
    message = fails(lambda: fetcher.fetch(url, "image 1", 0.3 if by_call else None))
    name = "timeout_s" if by_call else "fetch_timeout_s"
    assert message.startswith(f"image 1: '{url}' timed out after 0.3 s ({name}); raise it")
    if what == "body":
        wait_until(lambda: site.open_slow == 0, "a slow connection is still open")


def test_longer_timeout_of_a_call_does_not_raise_the_limit(site: Site) -> None:
    url = f"{site.url}/trickle/body"
    assert "after 0.2 s (fetch_timeout_s)" in fails(lambda: Fetcher(0.2).fetch(url, "image 0", 60))


def test_slow_name_resolution_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answered.wait(10) and [])
    try:
        message = fails(lambda: Fetcher(0.1).fetch("http://slow.example/a.png", "image 0"))
    finally:
        answered.set()
    assert "timed out after 0.1 s" in message


def test_dropped_idle_connection_is_retried_once(site: Site, fetcher: Fetcher) -> None:
    assert fetcher.fetch(f"{site.url}/kept_once", "image 0") == CONTENT
    assert fetcher.fetch(f"{site.url}/image", "image 0") == CONTENT
    assert site.connections == 2
    fetcher.fetch(f"{site.url}/kept_once", "image 0")
    seen = len(site.headers)
    assert "Remote end closed" in fails(lambda: fetcher.fetch(f"{site.url}/dropped", "image 0"))
    assert len(site.headers) <= seen + 2


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a", "file:///etc/passwd", "data:,x"])
def test_redirect_to_another_scheme_is_rejected(site: Site, fetcher: Fetcher, target: str) -> None:
    site.target = target
    message = fails(lambda: fetcher.fetch(f"{site.url}/away", "image 0"))
    assert f"redirects to '{target}', and {target.partition(':')[0]} is not followed from http" in message


def test_credentials_are_sent_to_their_host_only_and_hidden_in_errors(site: Site, fetcher: Fetcher) -> None:
    with_password = site.url.replace("//", "//me:pass%20word@")
    fetcher.fetch(f"{with_password}/hops/0", "image 0")
    wanted = "Basic " + base64.b64encode(b"me:pass word").decode()
    assert [headers["authorization"] for headers in site.headers] == [wanted, wanted]
    site.target = site.url.replace("127.0.0.1", "localhost") + "/status/401"
    message = fails(lambda: fetcher.fetch(f"{with_password}/away?{'q' * 1000}", "image 0"))
    assert "authorization" not in site.headers[-1]
    assert message.startswith(f"image 0: '{site.url}/away?{'q' * 40}...' answered with status 401")
    assert "pass" not in message.replace("pass its bytes", "")


@pytest.fixture
def secure_site(site: Site, tmp_path: Any) -> str:
    """The URL of the site over TLS, with a self-made certificate for 127.0.0.1."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *name, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    return site.url.replace("http", "https")


def test_untrusted_https_certificate_is_rejected(secure_site: str, fetcher: Fetcher) -> None:
    message = fails(lambda: fetcher.fetch(f"{secure_site}/image", "image 0"))
    assert "certificate" in message


def test_https_fetch_honours_the_limit_and_rejects_a_redirect_to_http(
    secure_site: str, site: Site, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert Fetcher().fetch(f"{secure_site}/image", "image 0") == CONTENT
    site.target = f"{site.url}/image"
    assert "http is not followed from https" in fails(
        lambda: Fetcher().fetch(f"{secure_site}/away", "image 0")
    )
    assert "timed out" in fails(lambda: Fetcher(0.5).fetch(f"{secure_site}/trickle/body", "image 0"))
    wait_until(lambda: site.open_slow == 0, "a slow connection is still open")


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://127.0.0.1:1/cat.jpg", "cannot be fetched: .*refused; check the URL and the network"),
        ("http://no-such-host.invalid/cat.jpg", "cannot be fetched: "),
        ("http:///cat.jpg", "is not a valid URL"),
        ("http://[::1/cat.jpg", "is not a valid URL|cannot be fetched"),
        ("http://127.0.0.1:99999/cat.jpg", "is not a valid URL|cannot be fetched"),
        ("data:image/png;base64", "has no comma"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,A", "is not valid base64"),
        ("data:image/png;base64,ä!!!", "is not valid base64"),
        ("data:," + "x" * (LIMIT_BYTES + 1), "is larger than 300000 bytes"),
    ],
)
def test_unreachable_url_raises_an_error_with_its_cause(fetcher: Fetcher, url: str, cause: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^image 2: .*(?:{cause})") as caught:
        fetcher.fetch(url, "image 2")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,SGVsbG8=",
        "DATA:;BASE64,SGVs\nbG8",
        "data:image/png;base64,SGVsbG8%3D",
        "data:text/plain;charset=utf-8,%48ello",
        "data:,Hello",
    ],
)
def test_data_url_is_decoded(fetcher: Fetcher, url: str) -> None:
    assert fetcher.fetch(url, "image 0") == b"Hello"


def test_fetcher_is_shared_by_threads_and_close_only_ends_idle_connections(
    site: Site, fetcher: Fetcher
) -> None:
    with ThreadPoolExecutor(16) as pool:
        done = pool.map(lambda n: fetcher.fetch(f"{site.url}/image?{n}", f"image {n}"), range(64))
        assert list(done) == [CONTENT] * 64
    assert site.connections <= 16
    fetcher.close()
    fetcher.close()
    opened = site.connections
    assert fetcher.fetch(f"{site.url}/image", "image 0") == CONTENT
    assert site.connections == opened + 1


@pytest.mark.parametrize("text", ["http://a", "HTTPS://a", "data:,x"])
def test_paths_are_not_urls(text: str) -> None:
    assert is_url(text)
    assert not is_url(f"./{text}")


def test_urllib3_is_imported_by_the_first_http_fetch_only() -> None:
    code = "import sys; from tritonclip._images.fetch import Fetcher; Fetcher().fetch('data:,x', 'image 0');"
    code += "print('urllib3' in sys.modules)"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
