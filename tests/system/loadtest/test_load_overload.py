"""A load test with twice the base rate, so slow that no server rejects a request."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.load_runs import requires_locust, run_load, urls
from tritonclip_server.serving.launcher import EmbeddedTriton

pytestmark = requires_locust


def test_overload_counts_every_request(server: EmbeddedTriton, tmp_path: Path) -> None:
    done = run_load(
        *urls(server), "--shape", "overload", "--rate", 1, "--output", tmp_path,
        MEASURE_S="4", WARMUP_S="0.5", PICTURES="4", DEADLINE_S="120", BAD_SHARE="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "shape.json").read_text(encoding="utf-8"))
    assert found["offered"] == found["right"] > 0
    assert "image_preprocess" in found["pending_max"]
