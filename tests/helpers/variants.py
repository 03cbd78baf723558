"""Variants of the server. Each starts once in a run, and serves all tests that declare it.

A test or a module declares its variants with `pytest.mark.variant("tls")`. Without a mark it gets "float32".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.servers import DEMO_CHECKPOINT

FAULT = "fault"
"""A request to the traced server whose id starts with this fails in the model `similarity`."""
FAULTY_PARSE = f"""

_parse = TritonPythonModel._parse


def _parse_or_fail(self, request):
    if request.request_id().startswith({FAULT!r}):
        raise KeyError("planted")
    return _parse(self, request)


TritonPythonModel._parse = _parse_or_fail
"""
POISONED_COLOUR = (1, 2, 3)
"""The traced server makes the embedding of an image that begins with this colour infinite."""
POISONED_WORD = "poisoned"
"""The traced server makes the embedding of a text with this word NaN."""
POISONED_IMAGES = f"""

_initialize = TritonPythonModel.initialize


class _Poisoned:
    def __init__(self, encoder):
        self._encoder = encoder

    def encode(self, groups):
        embeds = self._encoder.encode(groups)
        corners = np.concatenate(groups)[:, :, 0, 0]
        embeds[(corners == {POISONED_COLOUR}).all(axis=1)] = np.inf
        return embeds


def _initialize_poisoned(self, args):
    _initialize(self, args)
    self._encoder = _Poisoned(self._encoder)


TritonPythonModel.initialize = _initialize_poisoned
"""
POISONED_TEXTS = f"""

_encode = TextEncoder.encode


def _poison(self, texts):
    embeds, counts = _encode(self, texts)
    embeds[[{POISONED_WORD!r} in text for text in texts]] = float("nan")
    return embeds, counts


TextEncoder.encode = _poison
"""
TRACED_SERVICE = "triton-of-the-test"
QUEUE_BUDGET_MS = 3000
"""Queue budget of the variant "overload"."""
ADMIN_KEY = "a key"
"""Admin key of the variant "explicit"."""
UNCOMPILED = ("--set", "vision_encoder.compile=off")

Settings = tuple[Path, dict[str, Any]]
"""A repository and fields of `ServerOptions`."""


def float32(request: pytest.FixtureRequest) -> Settings:
    """The demo checkpoint with a small label cache and preloaded labels."""
    return request.getfixturevalue("demo_repository"), {}


def bfloat16(request: pytest.FixtureRequest) -> Settings:
    """The demo checkpoint in bfloat16, with preloaded labels."""
    prepare, labels = request.getfixturevalue("prepare"), request.getfixturevalue("preloaded_labels")
    return prepare(DEMO_CHECKPOINT, "--precision", "bfloat16", "--labels", labels), {}


def int8(request: pytest.FixtureRequest) -> Settings:
    """The demo checkpoint with the vision tower in int8."""
    return request.getfixturevalue("prepare")(DEMO_CHECKPOINT, "--precision", "int8"), {}


def tls(request: pytest.FixtureRequest) -> Settings:
    """TLS for gRPC."""
    certificates = request.getfixturevalue("certificates")
    return request.getfixturevalue("demo_repository"), {"tls": certificates.files()}


def mutual_tls(request: pytest.FixtureRequest) -> Settings:
    """TLS for gRPC with certificates of clients."""
    certificates = request.getfixturevalue("certificates")
    return request.getfixturevalue("demo_repository"), {"tls": certificates.files(mutual=True)}


def overload(request: pytest.FixtureRequest) -> Settings:
    """A short queue budget, and models for decoding and encoding that `gate` can hold."""
    prepare, gate = request.getfixturevalue("prepare"), request.getfixturevalue("gate")
    budget = ("--set", f"admission.queue_budget_ms={QUEUE_BUDGET_MS}")
    repository = prepare(DEMO_CHECKPOINT, "--precision", "float32", *UNCOMPILED, *budget)
    for model in ("image_preprocess", "vision_encoder"):
        gate.install(repository, model)
    return repository, {}


def explicit(request: pytest.FixtureRequest) -> Settings:
    """Explicit model control. Tests leave the first version loaded."""
    prepare = request.getfixturevalue("prepare")
    options = {"explicit": True, "admin_key": ADMIN_KEY}
    budget = ("--set", "admission.queue_budget_ms=600000")  # no test depends on how long a rollout takes
    return prepare(DEMO_CHECKPOINT, "--precision", "float32", *UNCOMPILED, *budget), options


def traced(request: pytest.FixtureRequest) -> Settings:
    """Spans of all requests for `receiver`, and faults that a request id, a colour and a word trigger."""
    from tritonclip_server.serving.tracing import TraceOptions

    copy = request.getfixturevalue("tmp_path_factory").mktemp("traced") / "models"
    shutil.copytree(request.getfixturevalue("demo_repository"), copy)
    append_code(copy / "similarity" / "1" / "model.py", FAULTY_PARSE)
    append_code(copy / "vision_encoder" / "1" / "model.py", POISONED_IMAGES)
    append_code(copy / "text_encoder" / "1" / "model.py", POISONED_TEXTS)
    receiver = request.getfixturevalue("receiver")
    return copy, {"trace": TraceOptions(url=receiver.endpoint, service=TRACED_SERVICE)}


def append_code(path: Path, code: str) -> None:
    """Append code to a model; it may replace methods of `TritonPythonModel`."""
    path.write_text(path.read_text(encoding="utf-8") + code, encoding="utf-8")


VARIANTS: dict[str, Callable[[pytest.FixtureRequest], Settings]] = {
    "float32": float32,
    "bfloat16": bfloat16,
    "int8": int8,
    "tls": tls,
    "mutual-tls": mutual_tls,
    "overload": overload,
    "explicit": explicit,
    "traced": traced,
}
