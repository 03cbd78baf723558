"""Write the gateway's OpenAPI document to the file that the tests read; run it after API changes."""

from __future__ import annotations

import json
from pathlib import Path

from tritonclip.gateway import create_app

TARGET = Path(__file__).parents[1] / "tests" / "server" / "gateway" / "openapi.json"


def document() -> str:
    """Return the document in its stored form."""
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
