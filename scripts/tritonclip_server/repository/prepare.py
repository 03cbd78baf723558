"""The command `tritonclip-server prepare CHECKPOINT --output REPOSITORY`."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from tritonclip_server.repository.checkpoint import Checkpoint, read_checkpoint
from tritonclip_server.repository.checkpoint_files import CheckpointError, CheckpointFiles, locate
from tritonclip_server.repository.identity import checkpoint_key
from tritonclip_server.repository.profiles import (
    AUTO,
    PROFILES,
    REASONS,
    profile_of,
    profile_parameters,
    this_machine,
)
from tritonclip_server.repository.progress import shown_progress
from tritonclip_server.repository.random_checkpoint import ARCHITECTURES, write_random_checkpoint
from tritonclip_server.repository.versions import created_and_locked
from tritonclip_server.repository.writer import (
    SHOWN_DIGITS,
    RepositoryError,
    check_parameters,
    has_version,
    version_bytes,
    version_fingerprint,
    write_version,
)

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
RANDOM_SEED = 0


@dataclass(frozen=True)
class Target:
    """Destination of a version.

    Attributes:
        output: The model repository.
        version: Number of the version directory.
        force: Replace a version that holds another checkpoint.
    """

    output: Path
    version: int = 1
    force: bool = False


@dataclass(frozen=True)
class CheckpointSettings:
    """Options of a checkpoint that is prepared.

    Attributes:
        revision: Commit, branch or tag of a hub checkpoint; its default branch if None.
        parameters: Changed parameters of `config.pbtxt`, by model.
        labels: File of labels that `text_encoder` encodes when it loads.
        profile: One of `PROFILES`; `parameters` win over it.
    """

    revision: str | None = None
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    labels: Path | None = None
    profile: str = AUTO


def checkpoint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a checkpoint, which the command receives as `settings`."""

    @click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
    @click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="Precision of both encoders. int8 is for images on a CPU; labels are then encoded in float32.",
    )
    @click.option(
        "--profile",
        type=click.Choice(PROFILES),
        default=AUTO,
        show_default=True,
        help="Choose instances and sizes of the models for this machine.",
    )
    @click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="MODEL.NAME=VALUE",
        help="Change a parameter of a model, also one of the profile. May be repeated.",
    )
    @click.option(
        "--labels",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="File of labels to encode when the models load, one per line.",
    )
    @functools.wraps(command)
    def wrapper(
        *,
        revision: str | None,
        precision: str | None,
        profile: str,
        assignments: tuple[str, ...],
        labels: Path | None,
        **values: Any,
    ) -> Any:
        parameters = _parameters(assignments, precision)
        return command(**values, settings=CheckpointSettings(revision, parameters, labels, profile))

    return wrapper


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="The model repository to write."
)
@click.option(
    "--version", type=click.IntRange(min=1), default=1, show_default=True, help="Number of the version."
)
@click.option("--force", is_flag=True, help="Replace a version that holds another checkpoint.")
@checkpoint_options
@click.option(
    "--random",
    "architecture",
    type=click.Choice(list(ARCHITECTURES)),
    help="Use full-size random weights instead of a CHECKPOINT, for load tests.",
)
@click.option(
    "--keep-checkpoint",
    type=click.Path(path_type=Path),
    help="With --random: also write the random checkpoint to this directory.",
)
def main(
    checkpoint: str | None,
    output: Path,
    version: int,
    force: bool,
    settings: CheckpointSettings,
    architecture: str | None,
    keep_checkpoint: Path | None,
) -> None:
    """Prepare a model repository from CHECKPOINT, a hub id or a directory in Hugging Face format.

    A repository that is up to date is not changed. A version is replaced as a whole or not at all. If another
    process is writing the repository, it is waited for.
    """
    if (checkpoint is None) == (architecture is None):
        raise click.UsageError("give either a CHECKPOINT or --random")
    target = Target(output, version, force)
    try:
        settings = fit_to_machine(settings, click.echo)
        check_parameters(settings.parameters)
        files = None if checkpoint is None else locate(checkpoint, settings.revision, click.echo)
        with created_and_locked(output, lambda text: click.echo(text, err=True)):
            if files is not None:
                prepare_version(files, target, settings)
            else:
                _prepare_random(str(architecture), keep_checkpoint, target, settings)
    except (CheckpointError, RepositoryError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def fit_to_machine(settings: CheckpointSettings, report: Callable[[str], None]) -> CheckpointSettings:
    """Return the settings with the parameters that their profile chooses for this machine.

    Args:
        settings: Options of the checkpoint.
        report: Called with a line that names the profile, the machine and the parameters.
    """
    machine = this_machine()
    profile = profile_of(settings.profile, machine)
    chosen = profile_parameters(profile, machine)
    merged = {
        model: {**chosen.get(model, {}), **settings.parameters.get(model, {})}
        for model in {**chosen, **settings.parameters}
    }
    values = [f"{model}.{name}={merged[model][name]}" for model in chosen for name in chosen[model]]
    found = ", ".join(values) or "the default settings of the models"
    report(f"profile {profile} for {machine}: {found} ({REASONS[profile]})")
    return replace(settings, parameters=merged)


def prepare_version(
    files: CheckpointFiles,
    target: Target,
    settings: CheckpointSettings,
    report: Callable[[str], None] = click.echo,
) -> None:
    """Write a version from a checkpoint, unless it is up to date.

    Args:
        files: The checkpoint.
        target: Destination of the version.
        settings: Options of the checkpoint.
        report: Called with each line for the user.

    Raises:
        CheckpointError: The checkpoint cannot be served.
        RepositoryError: A parameter is unknown, or the version holds another checkpoint.
    """
    check_parameters(settings.parameters)
    key = f"{files.source} {files.revision} {checkpoint_key(files)}"
    fingerprint = version_fingerprint(key, settings.parameters, settings.labels)
    if not _is_up_to_date(target, fingerprint, files.source, report):
        report(f"preparing {files.source} in {target.output}")
        _write(read_checkpoint(files), target, settings, fingerprint, report)


def _prepare_random(
    architecture: str, keep: Path | None, target: Target, settings: CheckpointSettings
) -> None:
    source = f"random {architecture}"
    key = f"{source} seed {RANDOM_SEED}"
    fingerprint = version_fingerprint(key, settings.parameters, settings.labels)
    if (keep is None or keep.is_dir()) and _is_up_to_date(target, fingerprint, source, click.echo):
        return
    with tempfile.TemporaryDirectory() as scratch:
        directory = keep or Path(scratch)
        write_random_checkpoint(architecture, directory, RANDOM_SEED)
        checkpoint = replace(
            read_checkpoint(locate(str(directory))),
            source=source,
            revision=f"seed {RANDOM_SEED}",
            random=True,
        )
        _write(checkpoint, target, settings, fingerprint, click.echo)


def _is_up_to_date(target: Target, fingerprint: str, source: str, report: Callable[[str], None]) -> bool:
    size = version_bytes(target.output, target.version)
    with shown_progress(f"checking {target.output}", size, report):
        if not has_version(target.output, target.version, fingerprint):
            return False
    report(f"{target.output} is up to date: version {target.version} holds {source}")
    return True


def _write(
    checkpoint: Checkpoint,
    target: Target,
    settings: CheckpointSettings,
    fingerprint: str,
    report: Callable[[str], None],
) -> None:
    tensors = checkpoint.tensors.values()
    # The weights are written and then read for their digest.
    total_bytes = 2 * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with shown_progress(f"writing {checkpoint.source}", total_bytes, report):
        identity = write_version(
            checkpoint,
            target.output,
            target.version,
            fingerprint=fingerprint,
            parameters=settings.parameters,
            labels=settings.labels,
            force=target.force,
        )
    size = sum(tensor.numel() for tensor in tensors)
    report(
        f"{target.output}: version {target.version} holds {checkpoint.source} "
        f"({size / 1e6:.1f} M parameters, sha256 {checkpoint.sha256[:SHOWN_DIGITS]}, "
        f"identity {identity[:SHOWN_DIGITS]})"
    )


def _parameters(assignments: tuple[str, ...], precision: str | None) -> dict[str, dict[str, str]]:
    parameters: dict[str, dict[str, str]] = {}
    if precision is not None:
        text_precision = "float32" if precision == "int8" else precision
        parameters = {
            "vision_encoder": {"precision": precision},
            "text_encoder": {"precision": text_precision},
        }
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        model, dot, key = name.partition(".")
        if not equals or not dot:
            raise click.UsageError(f"--set {assignment}: expected MODEL.NAME=VALUE")
        parameters.setdefault(model, {})[key] = value
    return parameters


if __name__ == "__main__":
    main()
