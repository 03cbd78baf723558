"""Common to all parts of the GPU benchmark: extent of the measurements, folders, and results."""

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
    """Extent of the measurements.

    Attributes:
        architecture: Architecture of random weights, or None for the demo checkpoint.
        precisions: Precisions of the encoders; the server uses the first.
        buckets: Largest number of images per pass on ready tensors, as a multiple of the largest bucket.
        matrix: Side of the square matrices.
        copy_bytes: Size of the copy on the device.
        seconds: Duration of one measurement.
        photographs: Number of different JPEG files.
        decoders: Pairs of processes and threads per process.
        instances: Pairs of instances of image_preprocess and threads per instance; 0 is one per core.
        loads: Pairs of callers and images per request.
        max_bucket: Images in the largest pass of the encoders, or None for the default.
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
    """Figures of all parts in `results.json` and `report.md`, which are written at every change.

    Args:
        directory: Folder of the two files. Figures that are there already are kept.
        part: Part that adds figures.
    """

    def __init__(self, directory: Path, part: str) -> None:
        self._directory, self._part = directory, part
        path = directory / "results.json"
        self.content: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, **facts: Any) -> None:
        """Record facts of this part."""
        self.content.setdefault(self._part, {}).update(facts)
        self._write()

    def add(self, table: str, **row: Any) -> None:
        """Add a row to a table of this part."""
        self.content.setdefault(self._part, {}).setdefault(table, []).append(row)
        self._write()

    def rows(self, part: str, table: str) -> Rows:
        """Return a table of any part, or an empty list."""
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
class PartContext:
    """Device, folders, limits and results of one part.

    Attributes:
        device: `cuda` or `cpu`.
        work: Folder of the model repository and the checkpoint.
        deadline: Time on the monotonic clock after which no measurement starts.
        plan: Extent of the measurements.
        results: Figures of all parts.
    """

    device: str
    work: Path
    deadline: float
    plan: Plan
    results: Results

    @property
    def repository(self) -> Path:
        """Prepared model repository."""
        return self.work / "models"

    @property
    def checkpoint(self) -> Path:
        """Checkpoint from which the repository was prepared."""
        return self.work / "checkpoint" if self.plan.architecture else DEMO_CHECKPOINT

    @property
    def max_bucket(self) -> int:
        """Number of images in the largest pass of the encoders."""
        config = (self.repository / "vision_encoder" / "config.pbtxt").read_text(encoding="utf-8")
        return int(parameter(config, "max_bucket"))

    def has_time(self, needed_s: float) -> bool:
        """Return True if a measurement that takes `needed_s` may start."""
        return time.monotonic() + needed_s < self.deadline


def parameter(config: str, name: str) -> str:
    """Return the value of a parameter in a prepared `config.pbtxt`."""
    found = re.search(parameter_pattern(name), config)
    if found is None:
        raise ValueError(f"config.pbtxt has no parameter '{name}'")
    return found[2]


def parameter_pattern(name: str) -> str:
    """Return a pattern for a parameter of a prepared `config.pbtxt`; its second group is the value."""
    return rf'(key: "{name}"\s*value \{{\s*string_value: ")([^"]*)(")'
