"""A server for the fuzz tests alone: its processes and memory are compared before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.fuzz.senders import Senders
from tests.system.fuzz.target import Target
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

CACHE_BYTES = 4_000_000
"""Label cache of the server. It is full after about 1,700 labels, so it does not count as growth."""

MALLOC_SETTINGS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""Make glibc return memory to the system as soon as it is freed, so that only memory in use is measured. With
the defaults each thread's arena keeps freed memory, and the server's size varies by tens of MiB."""


@pytest.fixture(scope="module")
def server(prepare: Callable[..., Path]) -> Iterator[EmbeddedTriton]:
    """Start a server on the demo checkpoint in float32. It replaces the server that other tests share."""
    cache = f"text_encoder.cache_bytes={CACHE_BYTES}"
    options = ("--precision", "float32", "--set", "vision_encoder.compile=off", "--set", cache)
    repository = prepare("scripts/demo/checkpoint", *options)
    server = EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in MALLOC_SETTINGS.items():
            environment.setenv(name, value)
        with server as running:
            yield running


@pytest.fixture(scope="module")
def target(server: EmbeddedTriton) -> Iterator[Target]:
    """Return the server with connections over both protocols."""
    with Senders(server.grpc_url, server.http_url) as senders:
        yield Target(server, senders)
