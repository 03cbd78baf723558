"""Writes the gateway's OpenAPI document to where the tests compare it: run it when the API has changed."""

from __future__ import annotations

import json
from pathlib import Path

from tritonclip.gateway import create_app

TARGET = Path(__file__).parents[1] / "tests" / "server" / "gateway" / "openapi.json"


def document() -> str:
    """The document as it is stored."""
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
