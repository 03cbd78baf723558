"""The identity that stored embeddings are bound to, and its comparison with that of the server."""

from __future__ import annotations

from tritonclip._messages.callers import warn
from tritonclip._types import ModelInfo

SHOWN_DIGITS = 12


def is_made_by(model: ModelInfo, *, identity: str, sha256: str) -> bool:
    """Return whether embeddings can be compared with those of a served model.

    Without an identity, which older releases did not record, equal weights are accepted.

    Args:
        model: The served model.
        identity: The identity stored with the embeddings, or "".
        sha256: The SHA-256 of the weights stored with them.
    """
    if identity and model.identity:
        return identity == model.identity
    return sha256 == model.sha256


def warn_without_identity(name: str, identity: str, model: ModelInfo) -> None:
    """Emit a UserWarning if accepted embeddings have no identity although the served model has one.

    Args:
        name: Name of the embeddings.
        identity: The identity stored with them, or "".
        model: The served model.
    """
    if model.identity and not identity:
        warn(
            f"{name} was written by an earlier release, which recorded the weights but not the settings of "
            "images and texts. Make it again if these have changed since"
        )


def shown(identity: str, sha256: str) -> str:
    """Return the start of an identity for an error text, or that of the weights' checksum without one."""
    return f"identity {identity[:SHOWN_DIGITS]}" if identity else f"sha256 {sha256[:SHOWN_DIGITS]}"
