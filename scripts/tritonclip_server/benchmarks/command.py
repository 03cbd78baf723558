"""The command `tritonclip-server benchmark`: one subcommand for each benchmark."""

from __future__ import annotations

import click

from tritonclip_server._lazy_group import LazyGroup, Subcommand

_BENCHMARK = "./client '.[benchmark]'"
SUBCOMMANDS = {
    "serving": Subcommand(
        "benchmarks.serving.command", "Compare throughput and latency with other servers.", _BENCHMARK
    ),
    "bulk": Subcommand("benchmarks.bulk", "Compare the client's bulk calls with perf_analyzer.", _BENCHMARK),
    "gateway": Subcommand("benchmarks.gateway", "Measure the cost of the REST gateway.", _BENCHMARK),
    "spark": Subcommand(
        "benchmarks.spark",
        "Compare the Spark stage with the bulk client.",
        "'./client[spark]' '.[benchmark]'",
    ),
    "search": Subcommand(
        "benchmarks.search.command",
        "Compare vector stores for the search index.",
        "'./client[search]' --group search-bench",
    ),
    "decoding": Subcommand(
        "benchmarks.decoding", "Measure instances and threads of image decoding.", _BENCHMARK
    ),
    "jpeg-draft": Subcommand(
        "benchmarks.jpeg_draft", "Measure speed and accuracy of reduced JPEG decoding.", _BENCHMARK
    ),
    "onnx": Subcommand(
        "onnx_export.check", "Compare an ONNX export with torch: accuracy and speed.", "'.[onnx]'"
    ),
}


@click.group(cls=LazyGroup, subcommands=SUBCOMMANDS)
def main() -> None:
    """Measure the system, alone and against others.

    Every benchmark prepares and starts what it measures, and stops it at the end.
    """
