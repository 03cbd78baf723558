"""Run a command by its old path, and print its new name. Kept for one release.

Each old path is a link to this file.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

MOVED = {
    "bulk_benchmark": ("tritonclip-server benchmark bulk", "tritonclip_server.benchmarks.bulk"),
    "evaluate_demo": ("scripts/demo/evaluation_sets.py", "tritonclip_server.demo.evaluation_sets"),
    "gateway_benchmark": ("tritonclip-server benchmark gateway", "tritonclip_server.benchmarks.gateway"),
    "gpu_benchmark": ("python -m tritonclip_server.gpu.benchmark", "tritonclip_server.gpu.benchmark"),
    "jpeg_draft_study": ("tritonclip-server benchmark jpeg-draft", "tritonclip_server.benchmarks.jpeg_draft"),
    "onnx_check": ("tritonclip-server benchmark onnx", "tritonclip_server.onnx_export.check"),
    "search_benchmark": (
        "tritonclip-server benchmark search",
        "tritonclip_server.benchmarks.search.command",
    ),
    "spark_benchmark": ("tritonclip-server benchmark spark", "tritonclip_server.benchmarks.spark"),
}
"""New command and module by old name."""

if __name__ == "__main__":
    name = Path(sys.argv[0]).stem
    if name not in MOVED:
        sys.exit(f"{name}.py is not a command; it runs the moved commands {', '.join(MOVED)}")
    command, module = MOVED[name]
    print(f"scripts/{name}.py moved: use {command}", file=sys.stderr)  # noqa: T201
    runpy.run_module(module, run_name="__main__", alter_sys=True)
