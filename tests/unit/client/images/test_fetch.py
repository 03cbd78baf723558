"""Fetching from a real local server that responds correctly, incorrectly, slowly or not at all."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme

import tritonclip
from tests.helpers.waiting import wait_until
from tests.unit.client.images.image_site import CONTENT, LIMIT_BYTES, Site, fails, times_out
from tritonclip import InvalidInputError
from tritonclip._images.fetch import Fetcher
from tritonclip._images.urls import is_url


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    fetcher = Fetcher(timeout_s=60, max_bytes=LIMIT_BYTES)
    yield fetcher
    fetcher.close()


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
        ("banner", "cannot be fetched: SSH-2.0-OpenSSH_9.2"),
    ],
)
def test_bad_response_raises_an_error_with_its_cause(
    site: Site, fetcher: Fetcher, path: str, cause: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^image 3: '{site.url}/{path}' .*{cause}"):
        fetcher.fetch(f"{site.url}/{path}", "image 3")
    assert fetcher.fetch(f"{site.url}/image", "image 3") == CONTENT


@pytest.mark.parametrize("what", ["head", "body", "chunks"])
def test_trickling_response_is_stopped_at_the_limit(site: Site, what: str) -> None:
    url = f"{site.url}/trickle/{what}"
    limit_s, message = times_out(site, lambda limit_s: Fetcher(limit_s).fetch(url, "image 1"))
    assert message.startswith(f"image 1: '{url}' timed out after {limit_s:g} s (fetch_timeout_s); raise it")
    if what == "body":
        wait_until(lambda: site.open_slow == 0, "a slow connection is still open", 60)


def test_trickling_response_is_stopped_at_the_limit_of_the_call(site: Site, fetcher: Fetcher) -> None:
    url = f"{site.url}/trickle/body"
    limit_s, message = times_out(site, lambda limit_s: fetcher.fetch(url, "image 1", limit_s))
    assert message.startswith(f"image 1: '{url}' timed out after {limit_s:g} s (timeout_s); raise it")
    wait_until(lambda: site.open_slow == 0, "a slow connection is still open", 60)


def test_longer_timeout_of_a_call_does_not_raise_the_limit(site: Site) -> None:
    url = f"{site.url}/trickle/body"
    assert "after 0.05 s (fetch_timeout_s)" in fails(lambda: Fetcher(0.05).fetch(url, "image 0", 60))


def test_slow_name_resolution_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answered.wait(60) and [])
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


def test_untrusted_https_certificate_is_rejected(site: Site, fetcher: Fetcher) -> None:
    site.encrypt(trustme.CA(), "127.0.0.1")
    assert "certificate" in fails(lambda: fetcher.fetch(f"{site.url}/image", "image 0"))


def test_https_fetch_honours_the_limit_and_rejects_a_redirect_to_http(
    site: Site, authority: trustme.CA
) -> None:
    site.encrypt(authority, "127.0.0.1")
    site.target = site.url.replace("https:", "http:") + "/image"
    assert "http is not followed from https" in fails(lambda: Fetcher().fetch(f"{site.url}/away", "image 0"))
    assert Fetcher().fetch(f"{site.url}/image", "image 0") == CONTENT
    site.seen.clear()
    _, message = times_out(
        site, lambda limit_s: Fetcher(limit_s).fetch(f"{site.url}/trickle/body", "image 0")
    )
    assert "timed out" in message
    wait_until(lambda: site.open_slow == 0, "a slow connection is still open", 60)


def test_unknown_host_raises_an_error_with_its_cause(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = fails(lambda: fetcher.fetch("http://no-such-host.invalid/cat.jpg", "image 2"))
    assert message.startswith("image 2: 'http://no-such-host.invalid/cat.jpg' cannot be fetched: ")
    assert "Name or service not known" in message


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://127.0.0.1:1/cat.jpg", "cannot be fetched: .*refused; check the URL and the network"),
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
