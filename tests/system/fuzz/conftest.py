"""One server for the fuzz suite alone, since it is judged by what it holds afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.fuzz.fuzz_senders import Senders
from tests.system.fuzz.fuzz_target import Target
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

CACHE_BYTES = 4_000_000
"""Full after some 1,700 labels: what it holds no longer counts as growth."""


GIVE_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Has glibc give memory back as soon as it is freed, so that what remains is what is held. As it comes, each
thread's arena keeps pieces of what was large once, and the server's size wanders by tens of MiB."""


@pytest.fixture(scope="module")
def server(prepare: Callable[..., Path]) -> Iterator[EmbeddedTriton]:
    """The demo checkpoint in float32, in the place of the server that other tests share."""
    cache = f"text_encoder.cache_bytes={CACHE_BYTES}"
    options = ("--precision", "float32", "--set", "vision_encoder.compile=off", "--set", cache)
    repository = prepare("scripts/demo/checkpoint", *options)
    server = EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in GIVE_BACK.items():
            environment.setenv(name, value)
        with server as running:
            yield running


@pytest.fixture(scope="module")
def target(server: EmbeddedTriton) -> Iterator[Target]:
    """The server, ready to be attacked."""
    with Senders(server.grpc_url, server.http_url) as senders:
        yield Target(server, senders)
