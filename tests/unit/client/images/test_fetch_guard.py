"""A guarded fetcher against real servers on the loopback interface: rejected and permitted URLs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

import pytest
import trustme

from tests.helpers.waiting import wait_until
from tests.unit.client.images.image_site import (
    CONTENT,
    LIMIT_BYTES,
    LIMITS_S,
    Site,
    fails,
    serving,
    times_out,
)
from tritonclip import InvalidInputError
from tritonclip._images.fetch import Fetcher
from tritonclip._images.guard import AddressGuard

NOT_PUBLIC = "the address of its host, or of one that it redirects to, is not public or not known"
PUBLIC = "93.184.216.34"  # only checked, never connected to


class Names:
    """A table of names. Each lookup of a name returns its next answer; the last one is repeated."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): rows for name, rows in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        rows = self.answers.get(host.rstrip("."))
        if rows is None:  # numeric addresses in any spelling, and localhost
            assert (
                host.lower().rstrip(".") in ("localhost",) or not host[-1].isalpha() or host.startswith("0x")
            )
            return list(socket.getaddrinfo(host, port, **options))
        found = rows.pop(0) if len(rows) > 1 else rows[0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [entry for text in found for entry in socket.getaddrinfo(text, port, **options)]


def guarded(site: Site, names: Names, allow: str = "127.0.0.0/8", timeout_s: float = 60) -> Fetcher:
    guard = AddressGuard([allow] if allow else [], (80, 443, site.server_port), names)
    return Fetcher(timeout_s, LIMIT_BYTES, guard)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.9"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
        *("192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *("255.255.255.255", "168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1"),
        *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1"),
        *("64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:53aa:64c::80ff:fffe", "2001:db8::1"),
        *("3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "100::1"),
        *("5f00::1", "4000::1", "not an address"),
    ],
)
def test_private_address_is_not_permitted(address: str) -> None:
    assert not AddressGuard().permits(address)


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "8.8.8.8", "172.32.0.1", "100.128.0.1", "168.63.129.17", "192.0.1.1", "::ffff:8.8.8.8"]
    + ["64:ff9b::808:808", "2606:4700::1111", "2a00:1450:4001::200e", "2001:4860:4860::8888"],
)  # fmt: skip
def test_public_address_is_permitted(address: str) -> None:
    assert AddressGuard().permits(address)


def test_allowed_network_is_permitted() -> None:
    guard = AddressGuard(["10.1.0.0/16", "fd12::/16"])
    permitted = ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd12::1", "8.8.8.8"]
    assert all(map(guard.permits, permitted))
    assert not any(map(guard.permits, ["10.2.0.1", "::ffff:10.2.0.1", "fd13::1", "127.0.0.1"]))
    assert not AddressGuard(["::/0"]).permits("::ffff:127.0.0.1")
    assert "allow: 10.1.0.1/16 has host bits set" in fails(lambda: AddressGuard(["10.1.0.1/16"]))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0177.0.0.1", "0x7f000001", "0x7f.0.0.1", "127.1", "127.0.1", "0"),
        *("017700000001", "127.0.0.1.", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "%31%32%37.0.0.1", "%6cocalhost"),
        *("inner.example", "inner.example.", "INNER.example", "b\u00fccher.example", "xn--bcher-kva.example"),
        *("mixed.example", "mixed6.example", "unknown.example", "metadata.example"),
    ],
)
def test_private_host_is_rejected_without_a_connection(site: Site, host: str) -> None:
    inner = [["127.0.0.1"]]
    names = Names(inner_example=inner, unknown_example=[[]], metadata_example=[["169.254.169.254"]])
    names.answers |= {"mixed.example": [[PUBLIC, "127.0.0.1"]], "mixed6.example": [["2606:4700::1", "::1"]]}
    names.answers |= {"xn--bcher-kva.example": inner}
    url = f"http://{host}:{site.server_port}/image"
    message = fails(lambda: guarded(site, names, allow="").fetch(url, "image 3"))
    assert message.startswith(
        f"image 3: '{url}' is not fetched: {NOT_PUBLIC}; give the URL of a public image"
    )
    assert "127.0.0.1" not in message.replace(url, "") and "refused" not in message
    assert len(names.asked) == 1
    assert site.connections == 0


def test_open_port_closed_port_and_unknown_name_get_the_same_error(site: Site) -> None:
    names = Names(inner_example=[["127.0.0.1"]], nowhere_example=[[]])
    guard = AddressGuard((), (site.server_port, 1), names)
    urls = [f"http://inner.example:{port}/" for port in (site.server_port, 1)] + ["http://nowhere.example:1/"]
    messages = [fails(lambda url=url: Fetcher(guard=guard).fetch(url, "image 0")) for url in urls]  # type: ignore[misc]
    assert len({message.replace(url, "") for message, url in zip(messages, urls, strict=True)}) == 1


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://example.com@127.0.0.1/", "a user or password"),
        ("http://me:secret@example.com/", "a user or password"),
        ("http://:@example.com/", "a user or password"),
        ("http://127.0.0.1\\@example.com/", "a space, a backslash"),
        ("http:\\\\127.0.0.1/", "a space, a backslash"),
        ("http://exa\tmple.com/", "a space, a backslash or a control character"),
        ("http://example.com\r\nHost: x/", "control character"),
        ("http://example.com/a\nb", "control character"),
        ("http:// 127.0.0.1/", "a space"),
        ("http://example.com/a b", "a space"),
        ("http://example.com/\x00", "control character"),
        ("http://exam%0aple.com/", "is not a valid"),
        ("http://a%2fb.example/", "is not a valid"),
        ("http://[fe80::1%25eth0]/", "is not a valid"),
        ("http://[::1/", "is not a valid"),
        ("http:///image", "is not a valid"),
        ("http:127.0.0.1/image", "is not a valid"),
        ("http://127\u30020\u30020\u30021/", "is not a valid|is not public"),
        ("http://\u2460\u2461\u2466.0.0.1/", "is not a valid|is not public"),
        ("http://example.com:99999/", "is not a valid"),
        ("http://example.com:22/", "a port that is not fetched from; give a URL with port 80 or 443"),
        ("https://example.com:8443/", "a port that is not fetched from"),
        ("http://example.com:0/", "a port that is not fetched from"),
        ("http://a..b/", "is not public"),
        (f"http://{'a' * 70}.example/", "is not public"),
        ("file:///etc/passwd", "is not a valid"),
        ("ftp://example.com/", "is not a valid"),
    ],
)
def test_malformed_or_suspicious_url_is_rejected(url: str, cause: str) -> None:
    names = Names(example_com=[[]])

    def resolve(host: str, *place: Any, **options: Any) -> Any:
        host.encode("idna")  # as socket.getaddrinfo does, with its UnicodeError
        return names(host, *place, **options)

    with pytest.raises(InvalidInputError, match=f"^image 2: .*(?:{cause})") as caught:
        Fetcher(guard=AddressGuard(resolve=resolve)).fetch(url, "image 2")
    assert "secret" not in str(caught.value)


def test_allowed_host_gets_its_name_as_host_header_over_kept_connections(site: Site) -> None:
    names = Names(a_example=[["127.0.0.1"]], b_example=[["127.0.0.1"]])
    fetcher, port = guarded(site, names), site.server_port
    for host in ("a.example", "A.example", "b.example", "a.example.", "127.0.0.1"):
        assert fetcher.fetch(f"http://{host}:{port}/image?x=%20#part", "image 0") == CONTENT
    hosts = ["a.example", "a.example", "b.example", "a.example", "127.0.0.1"]
    assert site.seen == [(f"{host}:{port}", "/image?x=%20") for host in hosts]
    assert site.connections == 3  # one for each name
    fetcher.close()
    assert fetcher.fetch("data:,Hello", "image 0") == b"Hello"


def test_name_that_changes_its_address_is_resolved_once_per_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(rebound_example=[["127.0.0.2"], ["127.0.0.1"]])
    # 127.0.0.2 plays the public address: nothing listens there, but 127.0.0.1 would answer.
    url = f"http://rebound.example:{site.server_port}/image"
    message = fails(lambda: guarded(site, names, "127.0.0.2/32").fetch(url, "image 0"))
    assert "cannot be fetched: its host cannot be reached" in message
    assert names.asked == ["rebound.example"]
    assert site.connections == 0
    assert NOT_PUBLIC in fails(lambda: guarded(site, names, "127.0.0.2/32").fetch(url, "image 0"))
    assert site.connections == 0


def test_each_redirect_is_resolved_once_and_checked(site: Site) -> None:
    names = Names(a_example=[["127.0.0.1"]], b_example=[["127.0.0.1"]])
    site.target = f"http://b.example:{site.server_port}/image"
    assert guarded(site, names).fetch(f"http://a.example:{site.server_port}/away", "image 0") == CONTENT
    assert names.asked == ["a.example", "b.example"]


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("http://127.0.0.1:{port}/image", NOT_PUBLIC),
        ("//127.1:{port}/image", NOT_PUBLIC),
        ("http://inner.example:{port}/image", NOT_PUBLIC),
        ("/image", NOT_PUBLIC),  # the name's next address is not permitted
        ("http://[::1]:{port}/image", NOT_PUBLIC),
        ("http://127.0.0.3:22/", "a port that is not fetched from"),
        ("http://me:secret@127.0.0.3:{port}/image", "a user or password"),
        ("http://127.0.0.3:{port}\\@b.example/", "a backslash"),
        ("file:///etc/passwd", "file is not followed from http"),
    ],
)
def test_redirect_to_a_forbidden_target_is_rejected(target: str, cause: str) -> None:
    with serving(Site("127.0.0.3")) as outer, serving(Site("127.0.0.1", outer.server_port)) as inner:
        outer.target = target.format(port=outer.server_port)
        names = Names(outer_example=[["127.0.0.3"], ["127.0.0.1"]], inner_example=[["127.0.0.1"]])
        url = f"http://outer.example:{outer.server_port}/away"
        message = fails(lambda: guarded(outer, names, "127.0.0.3/32").fetch(url, "image 1"))
        assert message.startswith(f"image 1: '{url}' ") and cause in message
        assert "secret" not in message
        assert (outer.connections, inner.connections) == (1, 0)


def test_next_address_is_used_if_one_refuses_connections(site: Site) -> None:
    names = Names(two_example=[["127.0.0.2", "127.0.0.1"]], none_example=[["127.0.0.2", "127.0.0.4"]])
    fetcher, port = guarded(site, names), site.server_port
    assert fetcher.fetch(f"http://two.example:{port}/image", "image 0") == CONTENT
    assert "its host cannot be reached" in fails(
        lambda: fetcher.fetch(f"http://none.example:{port}/", "image 0")
    )


def test_silent_address_leaves_time_for_the_next(site: Site) -> None:
    with socket.socket() as full:  # its backlog is full, so further connections get no answer
        full.bind(("127.0.0.2", site.server_port))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.2", site.server_port))
        names = Names(two_example=[["127.0.0.2", "127.0.0.1"]], slow_example=[["127.0.0.2"]])
        fetcher, port = guarded(site, names, timeout_s=60), site.server_port
        message = fails(lambda: fetcher.fetch(f"http://slow.example:{port}/image", "image 0", 0.1))
        assert "timed out after 0.1 s (timeout_s); raise it" in message
        content = b""
        for limit_s in LIMITS_S:
            with contextlib.suppress(InvalidInputError):  # a busy machine needs more time
                content = fetcher.fetch(f"http://two.example:{port}/image", "image 0", limit_s)
                break
        assert content == CONTENT
        for client in waiting:
            client.close()


def test_dropped_idle_connection_is_retried_once(site: Site) -> None:
    fetcher, url = guarded(site, Names()), site.url
    assert fetcher.fetch(f"{url}/kept_once", "image 0") == CONTENT
    assert fetcher.fetch(f"{url}/image", "image 0") == CONTENT
    assert site.connections == 2


def test_errors_reveal_nothing_that_the_host_sent(site: Site) -> None:
    fetcher = guarded(site, Names(closed_example=[["127.0.0.2"]]))
    urls = [f"{site.url}/banner", f"http://closed.example:{site.server_port}/"]
    messages = [fails(lambda url=url: fetcher.fetch(url, "image 0")) for url in urls]  # type: ignore[misc]
    assert len({message.replace(url, "") for message, url in zip(messages, urls, strict=True)}) == 1


def test_response_over_the_size_limit_is_rejected(site: Site) -> None:
    url = f"{site.url}/chunked/350000"
    assert "is larger than 300000 bytes" in fails(lambda: guarded(site, Names()).fetch(url, "image 0"))


@pytest.mark.parametrize("what", ["head", "body", "chunks"])
@pytest.mark.parametrize("secure", [False, True])
def test_trickling_response_and_its_thread_end_at_the_limit(
    site: Site, what: str, secure: bool, authority: trustme.CA
) -> None:
    if secure:
        site.encrypt(authority, "127.0.0.1")
    before = threading.active_count()

    def fetch(limit_s: float) -> bytes:
        return guarded(site, Names(), timeout_s=limit_s).fetch(
            f"{site.url}/trickle/{what}?{limit_s}", "image 0"
        )

    limit_s, message = times_out(site, fetch)
    assert f"timed out after {limit_s:g} s (fetch_timeout_s)" in message
    wait_until(lambda: site.open_slow == 0, "a slow connection is still open", 60)
    wait_until(lambda: threading.active_count() <= before, "a thread is still running", 60)
    assert len(set(site.seen)) == len(site.seen)  # no request was repeated


def test_https_certificate_is_verified_per_name_and_connections_are_not_shared(
    site: Site, authority: trustme.CA
) -> None:
    asked = site.encrypt(authority, "a.example")
    names = Names(a_example=[["127.0.0.1"]], b_example=[["127.0.0.1"]])
    fetcher, port = guarded(site, names), site.server_port
    for _ in range(2):
        assert fetcher.fetch(f"https://a.example:{port}/image", "image 0") == CONTENT
        for host in ("b.example", "127.0.0.1"):
            message = fails(lambda host=host: fetcher.fetch(f"https://{host}:{port}/image", "image 0"))  # type: ignore[misc]
            assert (
                "cannot be fetched: the certificate or the encryption of its host is not accepted" in message
            )
    assert site.seen == [(f"a.example:{port}", "/image")] * 2
    assert asked == ["a.example", "b.example", None, "b.example", None]
    site.target = f"http://a.example:{port}/image"
    assert "http is not followed from https" in fails(
        lambda: fetcher.fetch(f"https://a.example:{port}/away", "image 0")
    )


def test_https_certificate_of_an_unknown_authority_is_rejected(site: Site, authority: trustme.CA) -> None:
    site.encrypt(trustme.CA(), "a.example")
    names = Names(a_example=[["127.0.0.1"]])
    url = f"https://a.example:{site.server_port}/image"
    assert "is not accepted" in fails(lambda: guarded(site, names).fetch(url, "image 0"))
    assert site.seen == []


def test_fetch_async_runs_concurrently(site: Site) -> None:
    site.meeting = threading.Barrier(20, timeout=60)  # breaks, and fails the fetches, unless 20 meet
    fetcher = guarded(site, Names(), timeout_s=60)

    async def run() -> list[bytes]:
        return await asyncio.gather(
            *[fetcher.fetch_async(f"{site.url}/meet", f"image {n}") for n in range(20)]
        )

    assert asyncio.run(run()) == [CONTENT] * 20


def test_fetch_async_returns_and_raises_the_same_as_fetch(site: Site) -> None:
    fetcher = guarded(site, Names())
    assert asyncio.run(fetcher.fetch_async(f"{site.url}/image", "image 9")) == CONTENT
    assert asyncio.run(fetcher.fetch_async("data:,Hello", "image 9")) == b"Hello"
    for url, limit_s in (("http://0/", None), (f"{site.url}/trickle/head", 0.1)):
        message = fails(lambda: asyncio.run(fetcher.fetch_async(url, "image 9", limit_s)))  # noqa: B023
        assert message == fails(lambda: fetcher.fetch(url, "image 9", limit_s))  # noqa: B023
    assert "timed out after 0.1 s (timeout_s)" in message


def test_cancelled_fetch_ends_without_a_warning(site: Site) -> None:
    fetcher = guarded(site, Names())
    before = threading.active_count()

    async def run() -> None:
        fetching = asyncio.ensure_future(fetcher.fetch_async(f"{site.url}/trickle/body", "image 0"))
        while not (site.open_slow or fetching.done()):
            await asyncio.sleep(0.01)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching

    asyncio.run(run())
    site.stop.set()
    wait_until(lambda: threading.active_count() <= before, "a thread is still running", 60)
