"""Typed access to the `parameters` of a `config.pbtxt`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Parameters:
    """The `parameters` of a model configuration.

    Args:
        model_config: Triton's model configuration, parsed from `args["model_config"]`.
    """

    def __init__(self, model_config: dict[str, Any]) -> None:
        self._values = {
            key: entry["string_value"] for key, entry in model_config.get("parameters", {}).items()
        }

    def text(self, name: str) -> str:
        """Return a parameter unchanged.

        Raises:
            ValueError: `config.pbtxt` does not set it.
        """
        if name not in self._values:
            raise ValueError(f"parameter '{name}' is missing from config.pbtxt")
        return self._values[name]

    def integer(self, name: str, minimum: int = 0) -> int:
        """Return a parameter as a whole number.

        Raises:
            ValueError: It is missing, not a whole number, or less than `minimum`.
        """
        text = self.text(name)
        try:
            value = int(text)
        except ValueError as error:
            raise ValueError(f"parameter '{name}' must be a whole number, not '{text}'") from error
        if value < minimum:
            raise ValueError(f"parameter '{name}' must be at least {minimum}, not {value}")
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return a parameter that must be one of `allowed`.

        Raises:
            ValueError: It is missing or not one of `allowed`.
        """
        text = self.text(name)
        if text not in allowed:
            raise ValueError(f"parameter '{name}' must be one of {', '.join(allowed)}, not '{text}'")
        return text
