"""The command `tritonclip-server`."""

from __future__ import annotations

import click

from tritonclip_server import __version__
from tritonclip_server._lazy_group import LazyGroup, Subcommand

SUBCOMMANDS = {
    "prepare": Subcommand("repository.prepare", "Write a model repository from a CLIP checkpoint."),
    "serve": Subcommand("serving.serve", "Serve a checkpoint or a prepared repository with Triton."),
    "rollout": Subcommand("rollout.command", "Switch a running server to another checkpoint."),
    "evaluate": Subcommand(
        "evaluation.command",
        "Compare a server with transformers on labelled images.",
        "./client '.[evaluate]'",
    ),
    "export-onnx": Subcommand(
        "onnx_export.command", "Write both towers of a checkpoint as ONNX.", "'.[onnx]'"
    ),
    "benchmark": Subcommand("benchmarks.command", "Measure the system, alone and against others."),
}


@click.group(cls=LazyGroup, subcommands=SUBCOMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tritonclip-server")
def main() -> None:
    """Prepare, serve, roll out, evaluate and measure CLIP on Triton Inference Server."""
