"""The server under test: hostile batches with healthy requests among them, and counts of the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.system.fuzz.healthy_requests import healthy
from tests.system.fuzz.hostile_labels import OVERSIZED
from tests.system.fuzz.senders import BATCH, Senders
from tests.system.fuzz.verdict import complaint
from tests.system.fuzz.vitals import Vitals, processes, read_vitals
from tests.system.fuzz.wire import Reply, Request, bytes_tensor
from tritonclip_server.serving.launcher import EmbeddedTriton

CONTROL_EVERY = 48
TOLERANCE = 1e-5
"""Absolute difference allowed in controls: float32 sums round differently in batches of other sizes."""

SPREADING_ERROR = "incomplete string data for inference input"
"""Error of a healthy request that shares a dynamic batch with a BYTES element longer than its tensor.

Triton 2.51 accepts such an element, and its Python backend then rejects the whole batch before the model
runs. Requests to the public models are not affected, because each passes `admission` alone. Among direct
callers of one composing model these errors are counted and do not fail the test.
"""


class Target:
    """One server that receives hostile requests.

    Args:
        server: A running server.
        senders: Senders connected to the server.
    """

    def __init__(self, server: EmbeddedTriton, senders: Senders) -> None:
        self._server, self._senders = server, senders
        self._recorded = {name: self._answer("grpc", request) for name, request in healthy().items()}
        self._fill_up()
        self._since_controls = 0
        self.statuses: Counter[tuple[str, str, str]] = Counter()
        """Number of answers by kind, protocol and status."""
        self.controls = 0
        """Healthy requests with the right answer."""
        self.spoiled = 0
        """Healthy requests that failed with `SPREADING_ERROR`."""
        self.parts: dict[str, Vitals] = {"start": read_vitals(server)}
        """Vitals at the end of each part, by its name."""

    def _fill_up(self) -> None:
        """Grow caches, pools and shared regions to their final size."""
        for start in range(0, 6000, 2000):
            labels = [b"filling label %d" % number for number in range(start, start + 2000)]
            self._send("grpc", [_with_labels(labels)])
        for protocol in ("grpc", "http"):
            for labels in OVERSIZED:
                self._send(protocol, [_with_labels(labels)] * BATCH)

    def attack(self, kind: str, protocol: str, batch: Sequence[Request | bytes]) -> None:
        """Send hostile requests at once, together with a healthy one.

        Raises:
            AssertionError: An answer is wrong, or a process of the server has ended.
        """
        companion = list(healthy())[sum(self.statuses.values()) // BATCH % len(healthy())]
        *replies, healthy_reply = self._send(protocol, [*batch, healthy()[companion]])
        self.statuses.update((kind, protocol, reply.status) for reply in replies)
        wrong = [
            f"{found}\n    to {_abbreviated(request)}"
            for request, reply in zip(batch, replies, strict=True)
            if (found := complaint(protocol, request, reply))
        ]
        assert not wrong, "\n".join(wrong)
        if SPREADING_ERROR in healthy_reply.message and not companion.startswith("clip_"):
            self.spoiled += 1
        else:
            self._compare(companion, healthy_reply)
        self._since_controls += len(batch)
        if self._since_controls >= CONTROL_EVERY:
            self._since_controls = 0
            self.check_controls()

    def check_controls(self) -> None:
        """Send every healthy request over both protocols and compare the answers with the recorded ones."""
        for protocol in ("grpc", "http"):
            replies = self._send(protocol, list(healthy().values()))
            for name, reply in zip(healthy(), replies, strict=True):
                self._compare(name, reply)
        assert processes(self._server) == set(self.parts["start"].private_kib), (
            "a process of the server has ended"
        )

    def end_part(self, name: str) -> None:
        """Record the vitals at the end of a part."""
        self.check_controls()
        self.parts[name] = read_vitals(self._server)

    @property
    def incidents(self) -> list[str]:
        """Lines of the server's log that report errors inside the models."""
        return [line for line in self._server.log if "incident" in line]

    def _compare(self, name: str, reply: Reply) -> None:
        self.controls += 1
        assert reply.status == "OK", f"healthy request to {name}: {reply.status} {reply.message}"
        for output, expected in self._recorded[name].items():
            got = (reply.outputs or {})[output]
            if output not in ("times", "timings_us"):
                np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE, err_msg=f"{name}.{output}")

    def _answer(self, protocol: str, request: Request) -> dict[str, np.ndarray]:
        reply = self._send(protocol, [request])[0]
        assert reply.status == "OK", reply
        return dict(reply.outputs or {})

    def _send(self, protocol: str, requests: Sequence[Request | bytes]) -> list[Reply]:
        return self._senders[protocol].send(requests)


def _with_labels(labels: list[bytes]) -> Request:
    return replace(healthy()["clip_text_embedding"], tensors=(bytes_tensor("text", labels),))


def _abbreviated(request: Request | bytes) -> str:
    text = repr(request)
    return text if len(text) < 3000 else f"{text[:3000]}... ({len(text)} characters)"
