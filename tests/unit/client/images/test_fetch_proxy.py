"""Fetching through the proxies of the environment, with and without the guard against private addresses."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from tests.unit.client.images.image_site import CONTENT, LIMIT_BYTES, Site
from tests.unit.client.images.proxy import Proxy, proxying
from tritonclip import InvalidInputError
from tritonclip._images.fetch import Fetcher
from tritonclip._images.guard import AddressGuard
from tritonclip._process.proxies import proxy_of_grpc


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxying() as running:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, running.url.replace("//", "//me:se%40cret@"))
        yield running


def resolve(host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
    """Resolve names under .example to this machine."""
    known = host.endswith(".example") or host == "127.0.0.1"
    return list(socket.getaddrinfo("127.0.0.1" if known else "10.0.0.1", port, **options))


def guarded(site: Site) -> Fetcher:
    return Fetcher(60, LIMIT_BYTES, AddressGuard(["127.0.0.0/8"], [site.server_port], resolve))


def test_unguarded_fetcher_asks_the_proxy_for_the_url(site: Site, proxy: Proxy) -> None:
    assert Fetcher(60).fetch(f"{site.url}/image", "image 0") == CONTENT
    assert proxy.asked == [f"GET {site.url}/image"]
    assert proxy.authorizations == ["Basic " + base64.b64encode(b"me:se@cret").decode()]


def test_all_proxy_without_a_scheme_is_followed(
    site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("ALL_PROXY", proxy.url.removeprefix("http://"))
    assert Fetcher(60).fetch(f"{site.url}/image", "image 0") == CONTENT
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "example.com, 127.0.0.1:{port}"])
@pytest.mark.parametrize("is_guarded", [True, False])
def test_host_in_no_proxy_is_fetched_directly(
    site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, exempt: str, is_guarded: bool
) -> None:
    monkeypatch.setenv("no_proxy", exempt.format(port=site.server_port))
    fetcher = guarded(site) if is_guarded else Fetcher(60)
    assert fetcher.fetch(f"{site.url}/image", "image 0") == CONTENT
    assert not proxy.asked


def test_guarded_fetcher_asks_the_proxy_for_a_tunnel_to_the_checked_address(site: Site, proxy: Proxy) -> None:
    fetcher, port = guarded(site), site.server_port
    for _ in range(2):
        assert fetcher.fetch(f"http://a.example:{port}/image", "image 0") == CONTENT
    assert proxy.asked == [f"CONNECT 127.0.0.1:{port}"]  # once, since the tunnel is kept
    assert proxy.authorizations == ["Basic " + base64.b64encode(b"me:se@cret").decode()]
    assert site.seen == [(f"a.example:{port}", "/image")] * 2


def test_guarded_fetcher_verifies_the_certificate_inside_the_tunnel(
    site: Site, proxy: Proxy, authority: trustme.CA
) -> None:
    asked = site.encrypt(authority, "a.example")
    fetcher, port = guarded(site), site.server_port
    assert fetcher.fetch(f"https://a.example:{port}/image", "image 0") == CONTENT
    assert proxy.asked == [f"CONNECT 127.0.0.1:{port}"]
    assert asked == ["a.example"]
    with pytest.raises(InvalidInputError, match="certificate"):
        fetcher.fetch(f"https://b.example:{port}/image", "image 0")


def test_private_address_is_rejected_before_the_proxy_is_asked(site: Site, proxy: Proxy) -> None:
    with pytest.raises(InvalidInputError, match="not public"):
        guarded(site).fetch(f"http://intranet:{site.server_port}/image", "image 0")
    assert not proxy.asked


def test_error_names_the_proxy_without_its_password(site: Site, proxy: Proxy, authority: trustme.CA) -> None:
    proxy.refuses = True
    site.encrypt(authority, "127.0.0.1")
    shown = rf"403 Forbidden, through the proxy {proxy.url} \(variable https_proxy\); check"
    with pytest.raises(InvalidInputError, match=shown):
        Fetcher(60).fetch(f"{site.url}/image", "image 0")
    with pytest.raises(InvalidInputError, match="web server does, through a proxy; check") as caught:
        guarded(site).fetch(f"{site.url}/image", "image 0")
    assert proxy.url not in str(caught.value)


@pytest.mark.parametrize(("is_guarded", "scheme"), [(False, "socks5"), (True, "socks5"), (True, "https")])
def test_unsupported_proxy_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch, is_guarded: bool, scheme: str
) -> None:
    monkeypatch.setenv("http_proxy", f"{scheme}://me:secret@proxy:1080")
    with pytest.raises(
        InvalidInputError, match=rf"the proxy {scheme}://proxy:1080 .* must begin with http://"
    ):
        (guarded(site) if is_guarded else Fetcher(60)).fetch(f"{site.url}/image", "image 0")


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        ({"http_proxy": "http://a:1"}, "http://a:1"),
        ({"http_proxy": "http://a:1", "https_proxy": "http://b:1", "grpc_proxy": "http://c:1"}, "http://c:1"),
        ({"http_proxy": "http://a:1", "no_proxy": "other, example.com"}, None),
        ({"http_proxy": "http://a:1", "no_proxy": "clip.example.co"}, "http://a:1"),
        ({"http_proxy": "http://a:1", "no_grpc_proxy": "other", "no_proxy": "example.com"}, "http://a:1"),
    ],
)
def test_proxy_of_grpc_is_chosen_as_grpc_does(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = proxy_of_grpc("clip.example.com")
    assert (found and found.url) == url


def test_network_in_no_proxy_exempts_addresses_from_the_proxy_of_grpc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://a:1")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    assert proxy_of_grpc("10.1.2.3") is None
    assert proxy_of_grpc("11.1.2.3") is not None
