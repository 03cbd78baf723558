"""The command `tritonclip-server rollout`: change the checkpoint of a running server, and change it back.

A new version is written next to the served one, loaded, and compared with transformers on its checkpoint.
Then the ensembles are switched to it one by one, each in one step. Requests in flight finish with the version
that they started with. The old version stays loaded, so a rollback is immediate. The server must run with
`--model-control explicit`, and this program must be able to write to the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tritonclip_server.repository.checkpoint import read_checkpoint
from tritonclip_server.repository.checkpoint_files import CheckpointError, locate
from tritonclip_server.repository.configs import ENSEMBLES, PYTHON_MODELS
from tritonclip_server.repository.identity import checkpoint_key
from tritonclip_server.repository.versions import (
    LEAD,
    Versions,
    locked,
    remove_version,
    set_loaded,
    set_previous,
    set_served,
    versions_of,
)
from tritonclip_server.repository.writer import (
    SHOWN_DIGITS,
    RepositoryError,
    add_version,
    describe_version,
    version_fingerprint,
)
from tritonclip_server.rollout.check import compare, reference, samples, served
from tritonclip_server.rollout.control import RolloutError, ServerControl
from tritonclip_server.serving.launcher import ADMIN_KEY_VARIABLE


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the server, which the command receives as `control`.

    Errors of the command are printed in one line.
    """
    guard = nullcontext if command.__name__ == "status" else locked

    @click.option("--url", default="localhost:8000", show_default=True, help="HTTP address of the server.")
    @click.option(
        "--metrics-url", default="localhost:8002", show_default=True, help="Address of the server's metrics."
    )
    @click.option(
        "--admin-key",
        envvar=ADMIN_KEY_VARIABLE,
        required=True,
        help=f"Admin key of the server. [env: {ADMIN_KEY_VARIABLE}]",
    )
    @click.option(
        "--timeout", default=600.0, show_default=True, help="Seconds that loading a model may take."
    )
    @wraps(command)
    def wrapper(*, url: str, metrics_url: str, admin_key: str, timeout: float, **values: Any) -> None:
        try:
            with (
                guard(values["repository"]),
                ServerControl(url, metrics_url, admin_key, timeout) as control,
            ):
                command(control=control, **values)
        except (CheckpointError, RepositoryError, RolloutError, OSError) as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    return wrapper


repository_argument = click.argument("repository", type=click.Path(path_type=Path))
drain_option = click.option(
    "--drain-timeout", default=60.0, show_default=True, help="Seconds to wait for requests in flight."
)


@click.group()
def main() -> None:
    """Change the checkpoint of a running server without losing a request, or change it back."""


@main.command()
@repository_argument
@click.argument("checkpoint")
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Image for the comparison with transformers. May be repeated. [default: the demo's images]",
)
@click.option(
    "--unload-old",
    is_flag=True,
    help="Unload the old version to free its memory. A rollback then has to load it again.",
)
@drain_option
@_server_options
def deploy(
    repository: Path,
    checkpoint: str,
    revision: str | None,
    images: tuple[Path, ...],
    unload_old: bool,
    drain_timeout: float,
    control: ServerControl,
) -> None:
    """Switch to CHECKPOINT, a hub id or a directory in Hugging Face format."""
    state = versions_of(repository)
    _check_served(control, state)
    version = max(state.present) + 1
    files = locate(checkpoint, revision)
    content = read_checkpoint(files)
    fingerprint = version_fingerprint(f"{checkpoint} {files.revision} {checkpoint_key(files)}", {}, None)
    with _undone_on_failure(repository, control, state, version):
        identity = add_version(content, repository, version, fingerprint=fingerprint, served=state.served)
        click.echo(
            f"version {version} written: {checkpoint}, sha256 {files.sha256[:SHOWN_DIGITS]}, "
            f"identity {identity[:SHOWN_DIGITS]}"
        )
        _load(control, PYTHON_MODELS)
        click.echo(f"version {version} loaded next to version {state.served}")
        _check_answers(control, version, files.directory, images)
    _switch(repository, control, state.served, version)
    _drain(control, state.served, drain_timeout)
    if unload_old:
        _keep_loaded(repository, control, [version])


@main.command()
@repository_argument
@click.option(
    "--to", type=click.IntRange(min=1), help="Version to serve. [default: the previously served one]"
)
@drain_option
@_server_options
def rollback(repository: Path, to: int | None, drain_timeout: float, control: ServerControl) -> None:
    """Switch REPOSITORY back to the previously served version."""
    state = versions_of(repository, interrupted=to is not None)
    target = to or state.previous
    if target is None:
        raise RolloutError(f"{repository}: the previously served version is unknown; give it with --to")
    if target not in state.present:
        raise RolloutError(f"{repository} has no version {target}; it has {_listing(state.present)}")
    if target not in state.loaded:
        set_loaded(repository, [*state.loaded, target])
        _load(control, PYTHON_MODELS)
    _switch(repository, control, state.served, target)
    _drain(control, state.served, drain_timeout)


@main.command()
@repository_argument
@click.option("--delete", is_flag=True, help="Also delete the files of these versions.")
@drain_option
@_server_options
def retire(repository: Path, delete: bool, drain_timeout: float, control: ServerControl) -> None:
    """Unload every version that is not served, to free its memory."""
    state = versions_of(repository)
    for version in state.loaded:
        if version != state.served:
            _drain(control, version, drain_timeout)
    _keep_loaded(repository, control, [state.served])
    for version in state.present if delete else ():
        if version != state.served:
            remove_version(repository, version)
            click.echo(f"version {version} deleted")


@main.command()
@repository_argument
@_server_options
def status(repository: Path, control: ServerControl) -> None:
    """List the versions of REPOSITORY, and which are loaded and served."""
    state = versions_of(repository)
    ready = control.ready()
    for version in state.present:
        loaded = all(version in ready[model] for model in PYTHON_MODELS)
        words = ["served"] if version in ready[LEAD] else []
        words += ["loaded"] if loaded else []
        words += ["previously served"] if version == state.previous else []
        click.echo(
            f"version {version}: {describe_version(repository, version)}: {', '.join(words) or 'not loaded'}"
        )
    _check_served(control, state)


def _check_served(control: ServerControl, state: Versions) -> None:
    ready = control.ready()[LEAD]
    if ready != {state.served}:
        raise RolloutError(
            f"the server serves version {_listing(ready) or 'none'}, but the repository says {state.served}: "
            "the server reads another repository, or must be restarted after `tritonclip-server prepare`"
        )


def _check_answers(control: ServerControl, version: int, checkpoint: Path, images: Sequence[Path]) -> None:
    pictures, labels = samples(images)
    config = control.client.get_model_config("image_preprocess", str(version))
    image_processor = config["parameters"]["image_processor"]["string_value"]
    expected = reference(checkpoint, pictures, labels, image_processor)
    found = compare(served(control.client, version, pictures, labels), expected)
    click.echo(f"compared with transformers on {len(pictures)} images and {len(labels)} labels: {found}")
    if not found.is_small:
        raise RolloutError(f"version {version} differs from transformers with the same checkpoint")


@contextmanager
def _undone_on_failure(
    repository: Path, control: ServerControl, state: Versions, version: int
) -> Iterator[None]:
    """Remove a version if it cannot be served. The served version is not touched."""
    try:
        yield
    except BaseException:
        click.echo(f"removing version {version}; version {state.served} keeps serving", err=True)
        set_loaded(repository, state.loaded)
        _load(control, PYTHON_MODELS)
        remove_version(repository, version)
        raise


def _switch(repository: Path, control: ServerControl, old: int, new: int) -> None:
    """Switch each ensemble, `LEAD` last; switch all back if one fails."""
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
        set_previous(repository, old)
    click.echo(f"serving version {new}")


def _drain(control: ServerControl, version: int, timeout_s: float) -> None:
    if control.drain(version, timeout_s):
        click.echo(f"version {version} has no requests in flight")
        return
    raise RolloutError(
        f"version {version} still has requests in flight after {timeout_s:.0f} s; it stays loaded until they "
        "are answered"
    )


def _keep_loaded(repository: Path, control: ServerControl, versions: Sequence[int]) -> None:
    set_loaded(repository, versions)
    _load(control, PYTHON_MODELS)
    click.echo(f"loaded versions: {_listing(versions)}")


def _load(control: ServerControl, models: Sequence[str]) -> None:
    for model in models:
        control.load(model)


def _listing(versions: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


if __name__ == "__main__":
    main()
