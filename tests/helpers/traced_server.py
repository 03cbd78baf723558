"""An embedded Triton with tracing, and with a fault that a request id triggers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.otlp_receiver import Receiver
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions
from tritonclip_server.serving.tracing import TraceOptions

FAULT = "fault"
"""A request whose id starts with this fails in the model `similarity`."""
SERVICE = "triton-of-the-test"


@contextlib.contextmanager
def traced_server(repository: Path, directory: Path, receiver: Receiver) -> Iterator[EmbeddedTriton]:
    """Serve a copy of a repository, made in `directory`, and export its spans to the receiver."""
    copy = directory / "models"
    shutil.copytree(repository, copy)
    model = copy / "similarity" / "1" / "model.py"
    code = model.read_text(encoding="utf-8")
    parse = "    def _parse(self, request: Any) -> Embeds:\n"
    assert parse in code
    fault = f"        if request.request_id().startswith({FAULT!r}):\n            raise KeyError('planted')\n"
    model.write_text(code.replace(parse, parse + fault), encoding="utf-8")
    trace = TraceOptions(url=receiver.endpoint, service=SERVICE)
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, trace=trace)
    with EmbeddedTriton(copy, options) as server:
        yield server
