"""A server for the fuzz tests alone: its processes and memory are compared before and after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.servers import Prepare, Servers
from tests.helpers.variants import UNCOMPILED
from tests.system.fuzz.senders import Senders
from tests.system.fuzz.target import Target
from tritonclip_server.serving.launcher import EmbeddedTriton

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
def fuzzed_server(prepare: Prepare, servers: Servers) -> Iterator[EmbeddedTriton]:
    """Start a server on the demo checkpoint in float32 that rejects no request for its wait."""
    settings = (f"text_encoder.cache_bytes={CACHE_BYTES}", "admission.queue_budget_ms=3600000")
    options = [word for setting in settings for word in ("--set", setting)]
    repository = prepare("scripts/demo/checkpoint", "--precision", "float32", *UNCOMPILED, *options)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in MALLOC_SETTINGS.items():
            environment.setenv(name, value)
        with servers.run(repository, "fuzzing: its processes and memory are compared") as running:
            yield running


@pytest.fixture
def target(fuzzed_server: EmbeddedTriton) -> Iterator[Target]:
    """Return the server with connections over both protocols."""
    with Senders(fuzzed_server.grpc_url, fuzzed_server.http_url) as senders:
        yield Target(fuzzed_server, senders)
