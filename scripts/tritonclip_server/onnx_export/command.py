"""The command `tritonclip-server export-onnx`: a checkpoint as ONNX files, checked against transformers.

The output folder contains everything that a reader needs:

- `float32/` and `float16/` with the two towers
- `tokenizer.json`
- `clip.json` with image settings, logit scale, digest of the weights and measured deviations

client/examples/onnx_classify.py reads the folder without transformers and torch.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritonclip_server.repository.checkpoint import Checkpoint, read_checkpoint
from tritonclip_server.repository.checkpoint_files import CheckpointError, locate
from tritonclip_server.repository.image_settings import PILLOW

if TYPE_CHECKING:
    from tritonclip_server.onnx_export.check import Deviation

SETTINGS, TOKENIZER = "clip.json", "tokenizer.json"
FORMAT = "tritonclip onnx 1"
PRECISIONS = ("float32", "float16")
SIZE_FACTOR = 1.05  # graphs and settings add to the size of the weights


class ExportError(RuntimeError):
    """An export failed or is wrong. The message names the problem and the fix in one line."""


@click.command()
@click.argument("checkpoint")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=PRECISIONS,
    show_default="both",
    help="Precision of weights and computation; repeat the option for both.",
)
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def main(
    checkpoint: str,
    output: Path,
    revision: str | None,
    precisions: tuple[str, ...],
    force: bool,
) -> None:
    """Export CHECKPOINT, a hub id or a directory in Hugging Face format, as ONNX files.

    ONNX Runtime runs each precision on 200 drawn pictures and 200 captions. An export whose embeddings
    deviate too much from those of transformers is deleted.
    """
    try:
        _check_output(output, force)
        _check_packages()
        files = locate(checkpoint, revision)
        content = read_checkpoint(files)
        _export(content, files.directory, output, tuple(dict.fromkeys(precisions)))
    except (CheckpointError, ExportError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"cannot write {output}: {error.strerror or error}; no file was kept")


def _fail(text: str) -> None:
    click.echo(f"error: {text}", err=True)
    sys.exit(1)


def _check_output(output: Path, force: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SETTINGS).is_file():
        raise ExportError(f"{output} exists and is not an export; choose another --output")
    if not force:
        raise ExportError(f"{output} already contains an export; replace it with --force")


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"the package {error.name} is missing; install it with: pip install '.[onnx]'"
        ) from error


def _export(content: Checkpoint, source: Path, output: Path, precisions: tuple[str, ...]) -> None:
    # These modules import torch and transformers, which takes seconds.
    from tritonclip_server.onnx_export import towers
    from tritonclip_server.onnx_export.check import compare, make_samples
    from tritonclip_server.repository.reference import Reference

    reference = Reference(source, image_processor=PILLOW)
    output.parent.mkdir(parents=True, exist_ok=True)
    needed = SIZE_FACTOR * sum(towers.expected_bytes(reference.model, precision) for precision in precisions)
    _check_space(output.parent, needed)
    samples = make_samples(reference)
    deviations: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        staging = Path(scratch) / output.name
        for precision in precisions:
            towers.write_towers(reference.model, precision, staging / precision)
            deviation = compare(staging / precision, samples)
            _check_cosine(precision, deviation.least_cosine)
            deviations[precision] = asdict(deviation)
            _print_export(precision, staging / precision, deviation)
        (staging / TOKENIZER).write_text(content.tokenizer, encoding="utf-8")
        settings = json.dumps(_settings(content, deviations, towers.OPSET), indent=1, ensure_ascii=False)
        (staging / SETTINGS).write_text(settings + "\n", encoding="utf-8")
        _move_into_place(staging, output)
    click.echo(f"{output}: {content.source}, sha256 {content.sha256[:12]}")


def _check_space(folder: Path, needed: float) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"the export needs about {needed / 1e6:.0f} MB, but {folder} has {free / 1e6:.0f} MB left; "
            "free some space, choose another --output, or a single --precision"
        )


def _check_cosine(precision: str, cosine: float) -> None:
    from tritonclip_server.onnx_export.check import LEAST_COSINE

    if not cosine >= LEAST_COSINE[precision]:  # also rejects NaN: float16 overflows if weights are large
        raise ExportError(
            f"{precision} differs from transformers: the least cosine is {cosine:.7f}, the limit "
            f"{LEAST_COSINE[precision]}; no file was kept. Choose another --precision"
        )


def _settings(content: Checkpoint, deviations: dict[str, dict[str, float]], opset: int) -> dict[str, Any]:
    vision, text = content.vision, content.text
    return {
        "format": FORMAT,
        "checkpoint": content.source,
        "revision": content.revision,
        "sha256": content.sha256,
        "opset": opset,
        "dim": vision["projection_dim"],
        "logit_scale": content.logit_scale,
        "image": content.processor | {k: vision[k] for k in ("rescale_factor", "image_mean", "image_std")},
        "text": {"max_tokens": text["max_position_embeddings"], "pad_token_id": text["pad_token_id"]},
        "errors": deviations,
    }


def _print_export(precision: str, directory: Path, deviation: Deviation) -> None:
    sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(directory.iterdir())}
    listed = ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())
    click.echo(f"{precision}: {listed}; {deviation}")


def _move_into_place(staging: Path, output: Path) -> None:
    """Rename the folder, so that the output is always complete; an earlier export is removed last."""
    if output.exists():
        os.rename(output, staging.with_name("earlier"))  # removed with the scratch folder
    os.rename(staging, output)


if __name__ == "__main__":
    main()
