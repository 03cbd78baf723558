"""Upgrades a running server without a lost request: `rollout.py deploy REPOSITORY CHECKPOINT`, and back.

A new version is written beside the served one, loaded, and compared with transformers on the same checkpoint.
Then the ensembles are switched to it one by one, each in one step; requests that are inside end with the
version that they began with. The old version stays loaded, so that `rollout.py rollback REPOSITORY` takes no
time. The server must run with `--model-control explicit`, and this program where it can write the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tritonclip_server.repository.checkpoint import CheckpointError, locate, read_checkpoint
from tritonclip_server.repository.configs import ENSEMBLES, PYTHON_MODELS
from tritonclip_server.repository.versions import (
    LEAD,
    Versions,
    locked,
    note_previous,
    remove_version,
    set_loaded,
    set_served,
    versions_of,
)
from tritonclip_server.repository.writer import RepositoryError, add_version, fingerprint, source_of
from tritonclip_server.rollout.check import compare, reference, samples, served
from tritonclip_server.rollout.control import RolloutError, ServerControl
from tritonclip_server.serving.launcher import ADMIN_KEY_VARIABLE


def _server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the server, which the command gets as `control`, and tells errors in a line."""
    guard = nullcontext if command.__name__ == "status" else locked

    @click.option("--url", default="localhost:8000", show_default=True, help="The server's HTTP address.")
    @click.option("--metrics-url", default="localhost:8002", show_default=True, help="Of its metrics.")
    @click.option("--admin-key", envvar=ADMIN_KEY_VARIABLE, required=True, help=f"Or {ADMIN_KEY_VARIABLE}.")
    @click.option("--timeout", default=600.0, show_default=True, help="Seconds that a load may take.")
    @wraps(command)
    def gathered(*, url: str, metrics_url: str, admin_key: str, timeout: float, **values: Any) -> None:
        try:
            with (
                guard(values["repository"]),
                ServerControl(url, metrics_url, admin_key, timeout) as control,
            ):
                command(control=control, **values)
        except (CheckpointError, RepositoryError, RolloutError, OSError) as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    return gathered


repository_argument = click.argument("repository", type=click.Path(path_type=Path))
drain_option = click.option(
    "--drain-timeout", default=60.0, show_default=True, help="Seconds to wait for requests inside."
)


@click.group()
def main() -> None:
    """Changes the checkpoint of a running server, without a lost request, and back."""


@main.command()
@repository_argument
@click.argument("checkpoint")
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Compare answers about this image; may be repeated. The demo's images by default.",
)
@click.option("--unload-old", is_flag=True, help="Free the old version's memory; a rollback loads it again.")
@drain_option
@_server
def deploy(
    repository: Path,
    checkpoint: str,
    revision: str | None,
    images: tuple[Path, ...],
    unload_old: bool,
    drain_timeout: float,
    control: ServerControl,
) -> None:
    """Serves CHECKPOINT, a hub id or a directory in Hugging Face format, in place of the present one."""
    state = versions_of(repository)
    _check_served(control, state)
    version = max(state.present) + 1
    files = locate(checkpoint, revision)
    content = read_checkpoint(files)
    made_of = fingerprint(f"{checkpoint} {files.revision} {files.sha256}", {}, None)
    with _undone_on_failure(repository, control, state, version):
        add_version(content, repository, version, made_of=made_of, served=state.served)
        click.echo(f"version {version} written: {checkpoint}, sha256 {files.sha256[:12]}")
        _load(control, PYTHON_MODELS)
        click.echo(f"version {version} loaded beside version {state.served}")
        _check_answers(control, version, files.directory, images)
    _switch(repository, control, state.served, version)
    _drain(control, state.served, drain_timeout)
    if unload_old:
        _keep_loaded(repository, control, [version])


@main.command()
@repository_argument
@click.option("--to", type=click.IntRange(min=1), help="The version; the one served before by default.")
@drain_option
@_server
def rollback(repository: Path, to: int | None, drain_timeout: float, control: ServerControl) -> None:
    """Serves again what REPOSITORY served before."""
    state = versions_of(repository, interrupted=to is not None)
    target = to or state.previous
    if target is None:
        raise RolloutError(f"{repository}: nothing is known to have been served before; name it by --to")
    if target not in state.present:
        raise RolloutError(f"{repository} has no version {target}; it has {_listing(state.present)}")
    if target not in state.loaded:
        set_loaded(repository, [*state.loaded, target])
        _load(control, PYTHON_MODELS)
    _switch(repository, control, state.served, target)
    _drain(control, state.served, drain_timeout)


@main.command()
@repository_argument
@click.option("--delete", is_flag=True, help="Remove their files too.")
@drain_option
@_server
def retire(repository: Path, delete: bool, drain_timeout: float, control: ServerControl) -> None:
    """Unloads every version that is not served, and so frees its memory."""
    state = versions_of(repository)
    for version in state.loaded:
        if version != state.served:
            _drain(control, version, drain_timeout)
    _keep_loaded(repository, control, [state.served])
    for version in state.present if delete else ():
        if version != state.served:
            remove_version(repository, version)
            click.echo(f"version {version} removed")


@main.command()
@repository_argument
@_server
def status(repository: Path, control: ServerControl) -> None:
    """Tells which versions there are, which are loaded, and which is served."""
    state = versions_of(repository)
    ready = control.ready()
    for version in state.present:
        loaded = all(version in ready[model] for model in PYTHON_MODELS)
        words = ["served"] if version in ready[LEAD] else []
        words += ["loaded"] if loaded else []
        words += ["served before"] if version == state.previous else []
        click.echo(f"version {version}: {source_of(repository, version)}: {', '.join(words) or 'not loaded'}")
    _check_served(control, state)


def _check_served(control: ServerControl, state: Versions) -> None:
    ready = control.ready()[LEAD]
    if ready != {state.served}:
        raise RolloutError(
            f"the server answers with version {_listing(ready) or 'none'}, and the repository says "
            f"{state.served}: the server reads another one, or was not started anew after prepare_weights.py"
        )


def _check_answers(control: ServerControl, version: int, checkpoint: Path, images: Sequence[Path]) -> None:
    pictures, labels = samples(images)
    expected = reference(checkpoint, pictures, labels)
    found = compare(served(control.client, version, pictures, labels), expected)
    click.echo(f"against transformers, {len(pictures)} images and {len(labels)} labels: {found}")
    if not found.small:
        raise RolloutError(f"version {version} does not answer as transformers does with the same checkpoint")


@contextmanager
def _undone_on_failure(
    repository: Path, control: ServerControl, state: Versions, version: int
) -> Iterator[None]:
    """Takes a version out again that cannot be served; the served one is not touched."""
    try:
        yield
    except BaseException:
        click.echo(
            f"version {version} is taken out again; version {state.served} is served as before", err=True
        )
        set_loaded(repository, state.loaded)
        _load(control, PYTHON_MODELS)
        remove_version(repository, version)
        raise


def _switch(repository: Path, control: ServerControl, old: int, new: int) -> None:
    """Switches each ensemble, the one that says what is served at last; back again where one fails."""
    models = [*(model for model in ENSEMBLES if model != LEAD), LEAD]
    try:
        for model in models:
            set_served(repository, model, new)
            control.load(model)
    except BaseException:
        for model in models:
            set_served(repository, model, old)
            control.load(model)
        raise
    if old != new:
        note_previous(repository, old)
    click.echo(f"version {new} is served")


def _drain(control: ServerControl, version: int, timeout_s: float) -> None:
    if control.drain(version, timeout_s):
        click.echo(f"version {version} has nothing inside any more")
        return
    raise RolloutError(
        f"version {version} still has requests inside after {timeout_s:.0f} s; it stays loaded, and they "
        "will be answered"
    )


def _keep_loaded(repository: Path, control: ServerControl, versions: Sequence[int]) -> None:
    set_loaded(repository, versions)
    _load(control, PYTHON_MODELS)
    click.echo(f"loaded now: version {_listing(versions)}")


def _load(control: ServerControl, models: Sequence[str]) -> None:
    for model in models:
        control.load(model)


def _listing(versions: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


if __name__ == "__main__":
    main()
