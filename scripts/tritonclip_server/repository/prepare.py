"""Prepares a Triton model repository: `prepare_weights.py CHECKPOINT --output REPOSITORY`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import click

from tritonclip_server.repository.checkpoint import Checkpoint, CheckpointError, locate, read_checkpoint
from tritonclip_server.repository.random_checkpoint import ARCHITECTURES, write_random_checkpoint
from tritonclip_server.repository.writer import (
    RepositoryError,
    check_parameters,
    fingerprint,
    holds,
    write_version,
)

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
RANDOM_SEED = 0


@dataclass(frozen=True)
class Target:
    """Where a version goes and what is changed in it.

    Attributes:
        output: The model repository.
        version: Number of the version directory.
        parameters: Changed parameters of `config.pbtxt`, by model.
        labels: File of labels to encode at load.
        force: Replace a version that holds another checkpoint.
    """

    output: Path
    version: int
    parameters: dict[str, dict[str, str]]
    labels: Path | None
    force: bool


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="The model repository to write."
)
@click.option(
    "--version", type=click.IntRange(min=1), default=1, show_default=True, help="Version directory."
)
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of both encoders' matrix products.")
@click.option(
    "--set", "settings", multiple=True, metavar="MODEL.NAME=VALUE", help="Change a model's parameter."
)
@click.option(
    "--labels", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Labels to encode at load."
)
@click.option(
    "--random", "architecture", type=click.Choice(list(ARCHITECTURES)), help="Random full-size weights."
)
@click.option(
    "--keep-checkpoint", type=click.Path(path_type=Path), help="Also keep the random checkpoint here."
)
@click.option("--force", is_flag=True, help="Replace a version that holds another checkpoint.")
def main(
    checkpoint: str | None,
    output: Path,
    version: int,
    revision: str | None,
    precision: str | None,
    settings: tuple[str, ...],
    labels: Path | None,
    architecture: str | None,
    keep_checkpoint: Path | None,
    force: bool,
) -> None:
    """Prepares a model repository from CHECKPOINT, a hub id or a directory in Hugging Face format.

    A repository that is up to date already is left as it is. A version is replaced whole or not at all.
    """
    if (checkpoint is None) == (architecture is None):
        raise click.UsageError("give either a CHECKPOINT or --random")
    target = Target(output, version, _parameters(settings, precision), labels, force)
    try:
        check_parameters(target.parameters)
        if architecture is not None:
            _prepare_random(architecture, keep_checkpoint, target)
        else:
            _prepare(str(checkpoint), revision, target)
    except (CheckpointError, RepositoryError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _prepare(source: str, revision: str | None, target: Target) -> None:
    files = locate(source, revision)
    made_of = fingerprint(f"{source} {files.revision} {files.sha256}", target.parameters, target.labels)
    if not _is_up_to_date(target, made_of, source):
        _write(read_checkpoint(files), target, made_of)


def _prepare_random(architecture: str, keep: Path | None, target: Target) -> None:
    source = f"random {architecture}"
    made_of = fingerprint(f"{source} seed {RANDOM_SEED}", target.parameters, target.labels)
    if (keep is None or keep.is_dir()) and _is_up_to_date(target, made_of, source):
        return
    with tempfile.TemporaryDirectory() as scratch:
        directory = keep or Path(scratch)
        write_random_checkpoint(architecture, directory, RANDOM_SEED)
        content = read_checkpoint(locate(str(directory)))
        _write(replace(content, source=source, revision=f"seed {RANDOM_SEED}", random=True), target, made_of)


def _is_up_to_date(target: Target, made_of: str, source: str) -> bool:
    if not holds(target.output, target.version, made_of):
        return False
    click.echo(f"{target.output} is up to date: version {target.version} holds {source}")
    return True


def _write(checkpoint: Checkpoint, target: Target, made_of: str) -> None:
    write_version(
        checkpoint,
        target.output,
        target.version,
        made_of=made_of,
        parameters=target.parameters,
        labels=target.labels,
        force=target.force,
    )
    size = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    click.echo(
        f"{target.output}: version {target.version} holds {checkpoint.source} "
        f"({size / 1e6:.1f} M parameters, sha256 {checkpoint.sha256[:12]})"
    )


def _parameters(settings: tuple[str, ...], precision: str | None) -> dict[str, dict[str, str]]:
    parameters: dict[str, dict[str, str]] = {}
    if precision is not None:
        parameters = {model: {"precision": precision} for model in ("vision_encoder", "text_encoder")}
    for setting in settings:
        name, equals, value = setting.partition("=")
        model, dot, key = name.partition(".")
        if not equals or not dot:
            raise click.UsageError(f"--set {setting}: write it as MODEL.NAME=VALUE")
        parameters.setdefault(model, {})[key] = value
    return parameters


if __name__ == "__main__":
    main()
