"""A plugin of tiktoken with an encoding that needs no file: its tokens are the bytes of UTF-8."""

from __future__ import annotations

from pathlib import Path

ENCODING = "utf8_bytes"
_PLUGIN = f"""
def construct():
    ranks = {{bytes([value]): value for value in range(256)}}
    return {{"name": "{ENCODING}", "pat_str": r"\\S+|\\s+", "mergeable_ranks": ranks, "special_tokens": {{}}}}

ENCODING_CONSTRUCTORS = {{"{ENCODING}": construct}}
"""


def write_plugin(folder: Path) -> dict[str, str]:
    """Write the plugin to a folder, and return the environment in which tiktoken finds it."""
    package = folder / "tiktoken_ext"
    package.mkdir()
    (package / "utf8.py").write_text(_PLUGIN, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
