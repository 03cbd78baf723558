"""Serves a prepared repository with the embedded Triton: `serve.py REPOSITORY`. Ctrl-C stops it cleanly."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from triton_launcher import EmbeddedTriton, LaunchError, ServerOptions


class _Stop(BaseException):
    """Raised in the main thread by a signal."""


def _on_signal(number: int, frame: FrameType | None) -> None:
    # A second signal, while the server is draining, must not interrupt its clean-up.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise _Stop(signal.Signals(number).name)


@click.command()
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind; keep it on loopback.")
@click.option("--http-port", default=8000, show_default=True, help="0 picks a free port.")
@click.option("--grpc-port", default=8001, show_default=True, help="0 picks a free port.")
@click.option("--metrics-port", default=8002, show_default=True, help="0 picks a free port.")
@click.option(
    "--admin-key", envvar="TRITONCLIP_ADMIN_KEY", help="Opens the closed endpoints; random by default."
)
@click.option("--start-timeout", default=300.0, show_default=True, help="Seconds for the models to load.")
@click.option(
    "--drain-timeout", default=30.0, show_default=True, help="Seconds to wait for requests inside at a stop."
)
def main(
    repository: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    admin_key: str | None,
    start_timeout: float,
    drain_timeout: float,
) -> None:
    """Serves REPOSITORY in the foreground until Ctrl-C or SIGTERM; the log goes to standard error."""
    options = ServerOptions(
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        admin_key=admin_key,
        start_timeout_s=start_timeout,
        drain_timeout_s=drain_timeout,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    server = EmbeddedTriton(repository, options, on_line=lambda line: click.echo(line, err=True))
    try:
        with server:
            click.echo(f"ready: grpc {server.grpc_url}, http {server.http_url}, metrics {server.metrics_url}")
            code = server.wait()
        click.echo(f"error: tritonserver ended by itself with code {code}", err=True)
        sys.exit(1)
    except _Stop as stop:
        click.echo(f"stopped on {stop}")
    except LaunchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
