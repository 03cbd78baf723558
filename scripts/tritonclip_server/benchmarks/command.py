"""The command `tritonclip-server benchmark`: one subcommand for each benchmark."""

from __future__ import annotations

import click

from tritonclip_server._lazy_group import LazyGroup, Subcommand

SUBCOMMANDS = {
    "serving": Subcommand(
        "benchmarks.serving.command", "Throughput and latency next to peers, in one interleaved run."
    ),
    "bulk": Subcommand("benchmarks.bulk", "Bulk runs of the client next to perf_analyzer."),
    "gateway": Subcommand("benchmarks.gateway", "The REST gateway next to the client it calls."),
    "spark": Subcommand("benchmarks.spark", "Stages of Spark next to the bulk client."),
    "search": Subcommand("benchmarks.search.command", "Vector stores for the search index."),
    "jpeg-draft": Subcommand("benchmarks.jpeg_draft", "Speed and accuracy of reduced JPEG decoding."),
    "onnx": Subcommand("onnx_export.check", "An ONNX export next to torch: accuracy and speed."),
}


@click.group(cls=LazyGroup, subcommands=SUBCOMMANDS)
def main() -> None:
    """Measure the system, alone and against others."""
