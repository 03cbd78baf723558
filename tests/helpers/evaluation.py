"""`tritonclip-server evaluate` in this process, and data and checkpoints for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from click.testing import CliRunner, Result

from tests.helpers.servers import DEMO_CHECKPOINT

STAGES = ("weights", "logit scale", "rejected", "preprocessing", "tokenizer", "vision tower", "text tower")


def run_evaluation(images: Path, checkpoint: Path, *options: object) -> Result:
    """Run the command in this process."""
    from tritonclip_server.evaluation.command import main

    arguments = [images, "--checkpoint", checkpoint, *options]
    return CliRunner().invoke(main, [*map(str, arguments)])


def differing_stages(output: str) -> list[str]:
    """Return the stages that the output reports as different."""
    lines = [line[2:] for line in output.splitlines() if line.startswith("- ")]
    return [stage for stage in STAGES if any(line.startswith(stage) for line in lines)]


def write_digits(folder: Path) -> Path:
    """Write the demo's 899 digits, and return their folder."""
    from tritonclip_server.demo.evaluation_sets import make_task, write_folders

    assert write_folders(make_task("digits"), folder) == 899
    return folder


def altered_checkpoint(directory: Path, tensor: str = "", tokenizer: str | None = None) -> Path:
    """Copy the demo checkpoint into a new folder, with a changed tensor or a changed tokenizer."""
    from safetensors.torch import load_file, save_file

    checkpoint = shutil.copytree(DEMO_CHECKPOINT, directory)
    if tensor:
        tensors = load_file(checkpoint / "model.safetensors")
        tensors[tensor] = tensors[tensor].flip(0).contiguous()
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        (checkpoint / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    return checkpoint
