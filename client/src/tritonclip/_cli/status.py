"""The subcommands about the server, health, models and stats, and the subcommand for shell completion."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from click.shell_completion import get_completion_class

from tritonclip._cli import report
from tritonclip._cli.options import EXIT_OK, EXIT_UNAVAILABLE, EXITS, GroupedCommand, as_json, connection
from tritonclip._types import Health
from tritonclip.client import Client
from tritonclip.errors import DeadlineExceededError, ServerUnavailableError

_COMPLETION_HELP = """Print a shell completion script. To install it:

\b
bash: tritonclip completion bash > ~/.tritonclip.bash
      echo '. ~/.tritonclip.bash' >> ~/.bashrc
zsh:  tritonclip completion zsh > ~/.tritonclip.zsh
      echo '. ~/.tritonclip.zsh' >> ~/.zshrc
fish: tritonclip completion fish > ~/.config/fish/completions/tritonclip.fish
"""


@click.command(cls=GroupedCommand, epilog=EXITS)
@connection
@click.option("--deep", is_flag=True, help="Also classify a tiny image. An overloaded server counts as ok.")
@as_json
def health(connect: dict[str, Any], deep: bool, as_json: bool) -> int:
    """Check each server of the URL and its models."""
    with Client(**connect) as client:
        endpoints = client.endpoints
    states = [(endpoint, _health(endpoint, connect, deep)) for endpoint in endpoints]
    ok = all(state is not None and state.ok for _, state in states)
    if as_json:
        rows = [
            {"endpoint": endpoint, "ok": state is not None and state.ok, **(asdict(state) if state else {})}
            for endpoint, state in states
        ]
        _print_json({"ok": ok, "endpoints": rows})
    else:
        report.health(states)
    return EXIT_OK if ok else EXIT_UNAVAILABLE


def _health(endpoint: str, connect: dict[str, Any], deep: bool) -> Health | None:
    """Return the state of one server, or report on standard error that it does not answer."""
    try:
        with Client(**{**connect, "url": endpoint}) as client:
            return client.health(deep=deep)
    except (ServerUnavailableError, DeadlineExceededError) as error:
        report.fail(str(error))
        return None


@click.command(cls=GroupedCommand, epilog=EXITS)
@connection
@as_json
def models(connect: dict[str, Any], as_json: bool) -> None:
    """Show the checkpoints of the server's models."""
    with Client(**connect) as client:
        infos = client.models()
    if as_json:
        _print_json({"models": [asdict(info) for info in infos]})
    else:
        report.models(infos)


@click.command(cls=GroupedCommand, epilog=EXITS)
@connection
@as_json
def stats(connect: dict[str, Any], as_json: bool) -> None:
    """Show counts and times of each model.

    Requests, batches and mean times in ms are counted since the model was loaded.
    """
    with Client(**connect) as client:
        found = client.statistics()
    if as_json:
        _print_json({"models": [{**asdict(model), "mean_batch": model.mean_batch} for model in found]})
    else:
        report.statistics(found)


@click.command(help=_COMPLETION_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell completion script."""
    make = get_completion_class(shell)
    if make is None:
        raise click.UsageError(f"{shell}: shell completion is not supported")
    group = click.get_current_context().find_root().command
    click.echo(make(group, {}, "tritonclip", "_TRITONCLIP_COMPLETE").source())


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
