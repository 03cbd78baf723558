"""The served model: its description, and the names that callers may give it."""

from __future__ import annotations

from typing import Any

from tritonclip._messages.text import shown
from tritonclip._types import ModelInfo
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._settings import GatewaySettings

ALIAS = "clip"
UNSPECIFIED = "default/not-specified"
"""Name that infinity's clients send if their caller gives none."""
DEMO_SHA256 = "63d29b26a7c94a25fbc2ee2e69dca14ff567ff24d450e646de9a7dea79f2462c"
"""Checksum of the weights in scripts/demo/checkpoint."""


def check_model(name: str | None, model: ModelInfo, settings: GatewaySettings) -> None:
    """Check the name by which a caller asks for a model.

    Args:
        name: Id of the served model, the last part of that id, `clip`, or an alias of the settings. None for
            any model.
        model: The served model.
        settings: The aliases.

    Raises:
        Problem: 404 for any other name. It lists the right ones.
    """
    wrong = unserved_aliases(model, settings)
    known = (*_own_names(model), ALIAS, *(alias for alias in settings.aliases if alias not in wrong))
    if name is None or name in (*known, UNSPECIFIED):
        return
    text = f"the model {shown(name)} does not exist; use {' or '.join(map(repr, dict.fromkeys(known)))}"
    raise Problem(status=404, code="model_not_found", message=wrong.get(name, text), param="model")


def unserved_aliases(model: ModelInfo, settings: GatewaySettings) -> dict[str, str]:
    """Return the aliases that stand for another model than the served one, each with an error text."""
    return {
        alias: f"the model {shown(alias)} is an alias of {shown(target)}, but {shown(model.checkpoint)} is "
        "served; correct --model-alias, or serve that model"
        for alias, target in settings.aliases.items()
        if target is not None and target not in _own_names(model)
    }


def describe_model(model: ModelInfo) -> dict[str, Any]:
    """Return the served model as an object of OpenAI's list of models."""
    return {
        "id": model.checkpoint,
        "object": "model",
        "created": 0,
        "owned_by": "tritonclip",
        "revision": model.revision,
        "sha256": model.sha256,
        "identity": model.identity,
        "random_weights": model.random_weights,
        "demo_weights": model.sha256 == DEMO_SHA256,
        "logit_scale": model.logit_scale,
    }


def _own_names(model: ModelInfo) -> tuple[str, str]:
    return model.checkpoint, model.checkpoint.rpartition("/")[2]
