"""What the parts of the GPU benchmark share: how much is measured, where, and where the results go."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclip_server.gpu.report import Rows, report
from tritonclip_server.paths import DEMO_CHECKPOINT

LABELS = [f"a photo of {thing}" for thing in "cat dog car house tree boat plane flower bridge face".split()]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        architecture: Of random weights; None: the demo checkpoint.
        precisions: The first is what the server uses.
        buckets: Largest number of images on ready tensors, as a multiple of the largest bucket.
        matrix: Side of the square matrices.
        copy_bytes: Of the device copy.
        seconds: Of one measurement.
        photographs: Different JPEG files.
        decoders: (processes, threads in each).
        instances: (instances of image_preprocess, threads in each; 0: one a core).
        loads: (callers, images a request).
        max_bucket: Images of the encoders' largest pass; None: as shipped.
    """

    architecture: str | None
    precisions: tuple[str, ...]
    buckets: int
    matrix: int
    copy_bytes: int
    seconds: float
    photographs: int
    decoders: tuple[tuple[int, int], ...]
    instances: tuple[tuple[int, int], ...]
    loads: tuple[tuple[int, int], ...]
    max_bucket: int | None = None


PLANS = {
    "cuda": Plan(
        architecture="vit-b-32",
        precisions=("float16", "bfloat16", "float32"),
        buckets=4,
        matrix=8192,
        copy_bytes=4 << 30,
        seconds=2.5,
        photographs=32,
        decoders=((1, 1), (1, 8), (1, 16), (8, 1), (8, 2), (16, 1)),
        instances=((8, 2), (14, 1), (1, 0), (8, 1), (4, 2), (1, 2)),
        loads=((64, 1), (64, 16), (256, 1), (16, 16), (16, 1), (256, 16)),
    ),
    "cpu": Plan(
        architecture=None,
        precisions=("float32", "bfloat16"),
        buckets=1,
        matrix=512,
        copy_bytes=1 << 24,
        seconds=0.2,
        photographs=4,
        decoders=((1, 1), (1, 2), (2, 1)),
        instances=((2, 1), (1, 0)),
        loads=((4, 1), (2, 4)),
        max_bucket=4,
    ),
}


class Results:
    """What was found: `results.json` and `report.md`, rewritten at every change.

    Args:
        directory: Where they lie; what is there already is kept.
        part: The part that adds to them.
    """

    def __init__(self, directory: Path, part: str) -> None:
        self._directory, self._part = directory, part
        path = directory / "results.json"
        self.content: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, **facts: Any) -> None:
        """Notes facts of this part."""
        self.content.setdefault(self._part, {}).update(facts)
        self._write()

    def add(self, table: str, **row: Any) -> None:
        """Adds a row to a table of this part."""
        self.content.setdefault(self._part, {}).setdefault(table, []).append(row)
        self._write()

    def rows(self, part: str, table: str) -> Rows:
        """A table of any part; empty where there is none."""
        rows: Rows = self.content.get(part, {}).get(table, [])
        return rows

    def _write(self) -> None:
        for name, text in (
            ("results.json", json.dumps(self.content, indent=1)),
            ("report.md", report(self.content)),
        ):
            partial = self._directory / f"{name}.partial"
            partial.write_text(text + "\n", encoding="utf-8")
            partial.rename(self._directory / name)


@dataclass(frozen=True)
class Run:
    """What a part works with."""

    device: str
    work: Path
    deadline: float
    """On the monotonic clock: nothing is begun after it."""
    plan: Plan
    results: Results

    @property
    def repository(self) -> Path:
        """The prepared model repository."""
        return self.work / "models"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that it was prepared from."""
        return self.work / "checkpoint" if self.plan.architecture else DEMO_CHECKPOINT

    @property
    def max_bucket(self) -> int:
        """Images of the encoders' largest pass."""
        config = (self.repository / "vision_encoder" / "config.pbtxt").read_text(encoding="utf-8")
        return int(parameter(config, "max_bucket"))

    def has_time(self, needed_s: float) -> bool:
        """Whether something that takes so long may begin."""
        return time.monotonic() + needed_s < self.deadline


def parameter(config: str, name: str) -> str:
    """A parameter's value in a prepared `config.pbtxt`."""
    found = re.search(parameter_pattern(name), config)
    if found is None:
        raise ValueError(f"config.pbtxt has no parameter '{name}'")
    return found[2]


def parameter_pattern(name: str) -> str:
    """Matches a parameter of a prepared `config.pbtxt`; the second group is its value."""
    return rf'(key: "{name}"\s*value \{{\s*string_value: ")([^"]*)(")'
