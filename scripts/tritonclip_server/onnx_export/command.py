"""Writes a CLIP checkpoint as ONNX files for machines without Triton, checked against transformers.

python scripts/export_onnx.py scripts/demo/checkpoint --output build/onnx/demo

The folder holds all that a reader needs: `float32/` and `float16/` with the two towers, `tokenizer.json`, and
`clip.json` with the settings of the images, the logit scale, the weights' digest and the errors that were
found. client/examples/onnx_classify.py reads it without transformers and torch.
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

from tritonclip_server.repository.checkpoint import Checkpoint, CheckpointError, locate, read_checkpoint

if TYPE_CHECKING:
    from tritonclip_server.onnx_export.check import Errors

SETTINGS, TOKENIZER = "clip.json", "tokenizer.json"
FORMAT = "tritonclip onnx 1"
PRECISIONS = ("float32", "float16")
SPARE = 1.05  # of the disk, beside the weights: graphs, settings


class ExportError(RuntimeError):
    """An export that cannot be made or is not right; the text is one line: what is wrong, the cure."""


@click.command()
@click.argument("checkpoint")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=PRECISIONS,
    show_default="both",
    help="Of weights and computation; may be given twice.",
)
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def main(
    checkpoint: str,
    output: Path,
    revision: str | None,
    precisions: tuple[str, ...],
    force: bool,
) -> None:
    """Writes CHECKPOINT, a hub id or a directory in Hugging Face format, as ONNX files.

    Each precision is run by ONNX Runtime on 200 drawn pictures and 200 captions. An export whose embeddings
    differ too much from transformers' is not kept.
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
        _fail(f"cannot write {output}: {error.strerror or error}; nothing was left there")


def _fail(text: str) -> None:
    click.echo(f"error: {text}", err=True)
    sys.exit(1)


def _check_output(output: Path, force: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SETTINGS).is_file():
        raise ExportError(f"{output} exists and is no export; choose another --output")
    if not force:
        raise ExportError(f"{output} holds an export already; replace it with --force")


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"{error.name} is missing; install it with: pip install --group onnx") from error


def _export(content: Checkpoint, source: Path, output: Path, precisions: tuple[str, ...]) -> None:
    from transformers import CLIPModel

    from tritonclip_server.onnx_export import towers  # imports torch and transformers, which takes seconds
    from tritonclip_server.onnx_export.check import compare, make_samples

    model = CLIPModel.from_pretrained(source, dtype="float32").eval()
    output.parent.mkdir(parents=True, exist_ok=True)
    needed = SPARE * sum(towers.expected_bytes(model, precision) for precision in precisions)
    _check_space(output.parent, needed)
    samples = make_samples(model, source)
    errors: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        staging = Path(scratch) / output.name
        for precision in precisions:
            towers.write_towers(model, precision, staging / precision)
            found = compare(staging / precision, samples)
            _accept(precision, found.least_cosine)
            errors[precision] = asdict(found)
            _tell(precision, staging / precision, found)
        (staging / TOKENIZER).write_text(content.tokenizer, encoding="utf-8")
        settings = json.dumps(_settings(content, errors, towers.OPSET), indent=1, ensure_ascii=False)
        (staging / SETTINGS).write_text(settings + "\n", encoding="utf-8")
        _put_in_place(staging, output)
    click.echo(f"{output}: {content.source}, sha256 {content.sha256[:12]}")


def _check_space(folder: Path, needed: float) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"the export takes about {needed / 1e6:.0f} MB, and {folder} has {free / 1e6:.0f} MB left; "
            "make room, choose another --output, or one --precision"
        )


def _accept(precision: str, cosine: float) -> None:
    from tritonclip_server.onnx_export.check import LEAST_COSINE

    if not cosine >= LEAST_COSINE[precision]:  # NaN too: float16 overflows where weights are large
        raise ExportError(
            f"{precision} differs from transformers: a cosine of {cosine:.7f}, where "
            f"{LEAST_COSINE[precision]} is asked for; nothing was kept. Take another --precision"
        )


def _settings(content: Checkpoint, errors: dict[str, dict[str, float]], opset: int) -> dict[str, Any]:
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
        "errors": errors,
    }


def _tell(precision: str, directory: Path, errors: Errors) -> None:
    sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(directory.iterdir())}
    listed = ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())
    click.echo(f"{precision}: {listed}; {errors}")


def _put_in_place(staging: Path, output: Path) -> None:
    """Rename, so that there is never half an export; an earlier one makes way at the last moment."""
    if output.exists():
        os.rename(output, staging.with_name("earlier"))  # removed with the scratch folder
    os.rename(staging, output)


if __name__ == "__main__":
    main()
