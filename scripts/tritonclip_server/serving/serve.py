"""Serves a prepared repository with the embedded Triton: `serve.py REPOSITORY`. Ctrl-C stops it cleanly."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tritonclip_server.serving.launcher import ADMIN_KEY_VARIABLE, EmbeddedTriton, LaunchError, ServerOptions
from tritonclip_server.serving.logs import SUPERVISOR, JsonLog, Log, TextLog
from tritonclip_server.serving.signals import on_stop_signal
from tritonclip_server.serving.supervision import SupervisorOptions
from tritonclip_server.serving.supervisor import GaveUpError, Supervisor
from tritonclip_server.serving.tls import TlsFiles
from tritonclip_server.serving.tracing import trace_options

EXIT_FAILED, EXIT_GAVE_UP = 1, 3


class _Stop(BaseException):
    """Raised in the main thread by a signal."""


def _stop(number: int) -> None:
    raise _Stop(signal.Signals(number).name)


def _supervision(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the supervisor, which the command gets as `supervision`; None switches it off."""
    default = SupervisorOptions()
    options = {
        "interval_s": ("--probe-interval", "Seconds between two true inferences that watch the server."),
        "probe_timeout_s": ("--probe-timeout", "Seconds that one may take."),
        "failures": ("--probe-failures", "So many failures in a row restart the server."),
        "stall_s": ("--stall-timeout", "Seconds without a finished request, while some wait, restart it."),
        "max_restarts": ("--max-restarts", "Give up, with exit code 3, where more are needed ..."),
        "window_s": ("--restart-window", "... within so many seconds."),
    }

    @functools.wraps(command)
    def gathered(*, supervise: bool, **values: Any) -> Any:
        chosen = SupervisorOptions(**{name: values.pop(name) for name in options})
        return command(**values, supervision=chosen if supervise else None)

    for name, (flag, text) in reversed(options.items()):
        value = getattr(default, name)
        kind = click.IntRange(min=1) if isinstance(value, int) else click.FloatRange(min=0, min_open=True)
        gathered = click.option(flag, name, type=kind, default=value, show_default=True, help=text)(gathered)
    switch = click.option("--supervise/--no-supervise", default=True, help="Restart a dead or stuck server.")
    return switch(gathered)


def _tls(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of TLS, which the command gets as `tls`; None where there are none."""
    path = click.Path(path_type=Path)

    @click.option("--tls-cert", type=path, help="gRPC with TLS: the server's certificate, a PEM file ...")
    @click.option("--tls-key", type=path, help="... and its key.")
    @click.option("--tls-client-ca", type=path, help="Ask callers for a certificate of this authority.")
    @functools.wraps(command)
    def gathered(
        *, tls_cert: Path | None, tls_key: Path | None, tls_client_ca: Path | None, **values: Any
    ) -> Any:
        if tls_cert is not None and tls_key is not None:
            return command(**values, tls=TlsFiles(tls_cert, tls_key, tls_client_ca))
        if tls_cert or tls_key or tls_client_ca:
            raise click.UsageError("TLS needs both --tls-cert and --tls-key.")
        return command(**values, tls=None)

    return gathered


@click.command()
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind; keep it on loopback.")
@click.option("--http-port", default=8000, show_default=True, help="0 picks a free port.")
@click.option("--grpc-port", default=8001, show_default=True, help="0 picks a free port.")
@click.option("--metrics-port", default=8002, show_default=True, help="0 picks a free port.")
@click.option("--http-host", help="Address of HTTP and metrics; as --host, or loopback with TLS.")
@_tls
@click.option("--admin-key", envvar=ADMIN_KEY_VARIABLE, help="Opens the closed endpoints; random by default.")
@click.option(
    "--model-control",
    type=click.Choice(["none", "explicit"]),
    default="none",
    show_default=True,
    help="explicit: who has the admin key may load and unload models, as rollout.py does.",
)
@click.option("--start-timeout", default=300.0, show_default=True, help="Seconds for the models to load.")
@click.option(
    "--drain-timeout", default=30.0, show_default=True, help="Seconds to wait for requests inside at a stop."
)
@click.option(
    "--trace-url", help="Send spans to this OTLP/HTTP collector. [env: OTEL_EXPORTER_OTLP_ENDPOINT]"
)
@click.option(
    "--trace-rate",
    default=0,
    show_default=True,
    help="Of requests without a caller's trace, trace one in so many; 0: none.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one object a line, all on standard error.",
)
@_supervision
def main(
    repository: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    http_host: str | None,
    tls: TlsFiles | None,
    admin_key: str | None,
    model_control: str,
    start_timeout: float,
    drain_timeout: float,
    trace_url: str | None,
    trace_rate: int,
    log_format: str,
    supervision: SupervisorOptions | None,
) -> None:
    """Serves REPOSITORY in the foreground until Ctrl-C or SIGTERM; the log goes to standard error."""
    try:
        trace = trace_options(trace_url, trace_rate, os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    options = ServerOptions(
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        http_host=http_host,
        tls=tls,
        admin_key=admin_key,
        explicit=model_control == "explicit",
        start_timeout_s=start_timeout,
        drain_timeout_s=drain_timeout,
        trace=trace,
    )
    on_stop_signal(_stop)
    log: Log = JsonLog(_write_error) if log_format == "json" else TextLog()
    server = EmbeddedTriton(repository, options, on_line=log.line)
    try:
        with server:
            log.tell(f"ready: grpc {server.grpc_url}, http {server.http_url}, metrics {server.metrics_url}")
            if supervision is not None:
                tell = functools.partial(log.tell, level="WARNING", source=SUPERVISOR)
                Supervisor(server, supervision, tell).run()
            code = server.wait()
        log.tell(f"error: tritonserver ended by itself with code {code}", level="ERROR")
        sys.exit(EXIT_FAILED)
    except _Stop as stop:
        log.tell(f"stopped on {stop}")
    except (LaunchError, GaveUpError) as error:
        log.tell(f"error: {error}", level="ERROR")
        sys.exit(EXIT_GAVE_UP if isinstance(error, GaveUpError) else EXIT_FAILED)
    finally:
        log.flush()


def _write_error(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
