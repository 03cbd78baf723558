from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
from typing import Any

import pytest
from google.protobuf import text_format
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tritonclient.grpc import model_config_pb2

import tritonclip
from tests.helpers.servers import ROOT
from tritonclip import Health
from tritonclip._calls import wire

REPOSITORY = ROOT / "model_repository"


def test_all_lists_every_public_name() -> None:
    public = {
        name
        for name, value in vars(tritonclip).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(tritonclip.__all__) == sorted(public)


def test_every_error_is_public() -> None:
    errors = {cls.__name__ for cls in vars(tritonclip.errors).values() if inspect.isclass(cls)}
    assert errors <= set(tritonclip.__all__)


def test_package_depends_on_no_model_library() -> None:
    needed, waiting = set(), ["tritonclip"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in needed:
            continue
        needed.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            extras = ["http", "grpc", ""] if name == "tritonclient" else [""]
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(requirement.name)
    assert {"tritonclient", "numpy", "pillow", "grpcio", "aiohttp"} <= needed
    assert not {"torch", "transformers", "tokenizers", "scikit-learn", "pyarrow", "nvidia-pytriton"} & needed


def test_package_is_marked_as_typed() -> None:
    assert (importlib.resources.files("tritonclip") / "py.typed").is_file()


@pytest.mark.parametrize("model", wire.PUBLIC_MODELS, ids=lambda model: model.name)
def test_wire_matches_the_model_repository(model: wire.Model) -> None:
    text = (REPOSITORY / model.name / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())

    def tensors(fields: object) -> list[wire.Tensor]:
        names = {"TYPE_STRING": "BYTES"}
        return [
            wire.Tensor(f.name, names.get(t, t.removeprefix("TYPE_")), tuple(f.dims))
            for f in fields  # type: ignore[attr-defined]
            for t in [model_config_pb2.DataType.Name(f.data_type)]
        ]

    assert config.name == model.name
    assert tensors(config.input) == list(model.inputs)
    assert tensors(config.output) == list(model.outputs)


@pytest.mark.parametrize("bad", ["live", "ready", "model", None])
def test_health_is_ok_only_if_everything_is_ready(bad: str | None) -> None:
    health = Health(live=bad != "live", ready=bad != "ready", models={"a": True, "b": bad != "model"})
    assert health.ok is (bad is None)


@pytest.mark.parametrize("inference", [None, "ok", "overloaded", "timeout", "failed"])
def test_overloaded_server_is_healthy(inference: Any) -> None:
    health = Health(live=True, ready=True, models={}, inference=inference)
    assert health.ok is (inference in (None, "ok", "overloaded"))
