"""The command `tritonclip-server serve SOURCE`."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tritonclip_server.repository.checkpoint_files import CheckpointError
from tritonclip_server.repository.prepare import CheckpointSettings, checkpoint_options
from tritonclip_server.repository.versions import check_consistent
from tritonclip_server.repository.writer import RepositoryError
from tritonclip_server.serving.gateway import Gateway, check_gateway
from tritonclip_server.serving.launcher import (
    ADMIN_KEY_VARIABLE,
    EmbeddedTriton,
    LaunchError,
    ServerOptions,
    free_port,
    is_model_repository,
)
from tritonclip_server.serving.logs import SUPERVISOR, Log, json_log, text_log
from tritonclip_server.serving.metrics import model_facts
from tritonclip_server.serving.signals import on_stop_signal
from tritonclip_server.serving.source import prepared_repository
from tritonclip_server.serving.supervisor import GaveUpError, Supervisor, SupervisorOptions
from tritonclip_server.serving.tls import TlsFiles
from tritonclip_server.serving.tracing import trace_options

EXIT_FAILED, EXIT_GAVE_UP = 1, 3
DEFAULT_GRPC_PORT = "8001"
"""Port that the client uses if none is given."""


class _Stop(BaseException):
    """Raised in the main thread by a signal."""


def _stop(number: int) -> None:
    raise _Stop(signal.Signals(number).name)


def _supervisor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the supervisor, which the command receives as `supervision`, or None."""
    defaults = SupervisorOptions()
    options = {
        "interval_s": ("--probe-interval", "Seconds between two inferences that probe the server."),
        "probe_timeout_s": ("--probe-timeout", "Time limit of a probe in seconds."),
        "failures": ("--probe-failures", "Restart the server after this many consecutive failed probes."),
        "stall_s": (
            "--stall-timeout",
            "Restart the server if no request completes for this many seconds while some are queued.",
        ),
        "max_restarts": (
            "--max-restarts",
            "Give up with exit code 3 if more restarts are needed within --restart-window.",
        ),
        "window_s": ("--restart-window", "Seconds over which restarts are counted."),
    }

    @functools.wraps(command)
    def wrapper(*, supervise: bool, **values: Any) -> Any:
        chosen = SupervisorOptions(**{name: values.pop(name) for name in options})
        return command(**values, supervision=chosen if supervise else None)

    for name, (flag, text) in reversed(options.items()):
        value = getattr(defaults, name)
        kind = click.IntRange(min=1) if isinstance(value, int) else click.FloatRange(min=0, min_open=True)
        wrapper = click.option(flag, name, type=kind, default=value, show_default=True, help=text)(wrapper)
    switch = click.option(
        "--supervise/--no-supervise",
        default=True,
        show_default=True,
        help="Restart the server when it is dead or stuck.",
    )
    return switch(wrapper)


def _tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of TLS, which the command receives as `tls`, or None."""
    path = click.Path(path_type=Path)

    @click.option("--tls-cert", type=path, help="PEM file of the server's certificate; enables TLS for gRPC.")
    @click.option("--tls-key", type=path, help="PEM file of the certificate's private key.")
    @click.option(
        "--tls-client-ca",
        type=path,
        help="PEM file of an authority; require client certificates that it signed.",
    )
    @functools.wraps(command)
    def wrapper(
        *, tls_cert: Path | None, tls_key: Path | None, tls_client_ca: Path | None, **values: Any
    ) -> Any:
        if tls_cert is not None and tls_key is not None:
            return command(**values, tls=TlsFiles(tls_cert, tls_key, tls_client_ca))
        if tls_cert or tls_key or tls_client_ca:
            raise click.UsageError("TLS needs both --tls-cert and --tls-key.")
        return command(**values, tls=None)

    return wrapper


@click.command()
@click.argument("source")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the prepared model repository of a checkpoint. [default: in the user's cache]",
)
@checkpoint_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind; keep it on loopback.")
@click.option("--grpc-port", default=8001, show_default=True, help="Port of gRPC; 0 picks a free one.")
@click.option("--http-port", default=8000, show_default=True, help="Port of HTTP; 0 picks a free one.")
@click.option(
    "--metrics-port", default=8002, show_default=True, help="Port of the metrics; 0 picks a free one."
)
@click.option(
    "--http-host", help="Address of HTTP and metrics. [default: that of --host, or loopback with TLS]"
)
@_tls_options
@click.option(
    "--admin-key",
    envvar=ADMIN_KEY_VARIABLE,
    help=f"Key that opens the closed endpoints. [env: {ADMIN_KEY_VARIABLE}; default: random]",
)
@click.option(
    "--model-control",
    type=click.Choice(["none", "explicit"]),
    default="none",
    show_default=True,
    help="explicit: callers with the admin key may load and unload models, as a rollout does.",
)
@click.option(
    "--start-timeout", default=300.0, show_default=True, help="Seconds that the models may take to load."
)
@click.option(
    "--drain-timeout",
    default=30.0,
    show_default=True,
    help="Seconds to wait for requests in flight when the server stops.",
)
@click.option("--gateway", is_flag=True, help="Also run the REST gateway with its web page.")
@click.option(
    "--gateway-port", default=8080, show_default=True, help="Port of the gateway; 0 picks a free one."
)
@click.option(
    "--gateway-options",
    default="",
    metavar="OPTIONS",
    help='Further options of `tritonclip gateway`, such as "--keys-file keys".',
)
@_supervisor_options
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="json: one object per line, all on standard error. auto: text on a terminal, otherwise json.",
)
@click.option("--verbose", is_flag=True, help="In text, also what Triton reports of its normal work.")
@click.option(
    "--trace-url",
    help="Send spans to this OTLP/HTTP collector. [env: OTEL_EXPORTER_OTLP_ENDPOINT]",
)
@click.option(
    "--trace-rate",
    default=0,
    show_default=True,
    help="Sample one in N requests that arrive without a trace context. 0 disables sampling.",
)
def main(
    source: str,
    repository: Path | None,
    settings: CheckpointSettings,
    host: str,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    http_host: str | None,
    tls: TlsFiles | None,
    admin_key: str | None,
    model_control: str,
    start_timeout: float,
    drain_timeout: float,
    gateway: bool,
    gateway_port: int,
    gateway_options: str,
    supervision: SupervisorOptions | None,
    log_format: str,
    verbose: bool,
    trace_url: str | None,
    trace_rate: int,
) -> None:
    """Serve SOURCE in the foreground until Ctrl-C or SIGTERM.

    SOURCE is a model repository that `tritonclip-server prepare` wrote, or a checkpoint: a hub id or a
    directory in Hugging Face format. A checkpoint is prepared first, unless its repository is up to date.

    The server's log goes to standard error. --gateway also runs the REST gateway; one Ctrl-C
    stops both. The exit code is 0 after a signal, 1 if the server cannot be
    started or exits on its own, and 3 after too many restarts.
    """
    is_prepared = is_model_repository(Path(source))
    if is_prepared and (repository or settings != CheckpointSettings()):
        raise click.UsageError(
            f"{source} is a prepared model repository: --repository, --revision, --precision, --profile, "
            "--set and --labels apply only to a checkpoint"
        )
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
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    on_stop_signal(_stop)
    log = json_log() if log_format == "json" else text_log(verbose=verbose)
    try:
        if gateway:
            gateway_port = gateway_port or free_port(host)
            check_gateway(host, gateway_port)
        if is_prepared:
            models = Path(source)
            check_consistent(models)
        else:
            if log_format == "json":
                os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read by huggingface_hub
            models = _prepare(source, repository, settings, log)
        server = EmbeddedTriton(models, options, on_line=log.server_line)
        report = functools.partial(log.message, level="WARNING", source=SUPERVISOR)
        beside: Gateway | contextlib.nullcontext[None] = contextlib.nullcontext()
        if gateway:
            beside = Gateway(server.probe_url, host, gateway_port, gateway_options, log_format, report)
        _serve(server, beside, supervision, log)
    except _Stop as stop:
        log.message(f"stopped on {stop}")
    except (CheckpointError, RepositoryError, LaunchError, GaveUpError) as error:
        log.message(f"error: {error}", level="ERROR")
        sys.exit(EXIT_GAVE_UP if isinstance(error, GaveUpError) else EXIT_FAILED)
    finally:
        log.flush()


def _prepare(source: str, repository: Path | None, settings: CheckpointSettings, log: Log) -> Path:
    try:
        return prepared_repository(source, repository, settings, log.message)
    except OSError as error:
        raise RepositoryError(f"cannot prepare {source}: {error}") from error


def _serve(
    server: EmbeddedTriton,
    gateway: Gateway | contextlib.nullcontext[None],
    supervision: SupervisorOptions | None,
    log: Log,
) -> None:
    """Run a server, and a gateway if there is one, until a signal; exit if the server does so by itself."""
    log.message(f"loading the models of {server.repository}")
    began_s = time.monotonic()
    with server, gateway as running:
        took_s = time.monotonic() - began_s
        log.message(
            f"ready: grpc {server.grpc_url}, http {server.http_url}, metrics {server.metrics_url}, "
            f"after {took_s:.1f} s"
        )
        for line in _what_is_served(server, running):
            log.message(line)
        if supervision is not None:
            report = functools.partial(log.message, level="WARNING", source=SUPERVISOR)
            Supervisor(server, supervision, report).run()
        code = server.wait()
    log.message(f"error: tritonserver exited with code {code}", level="ERROR")
    sys.exit(EXIT_FAILED)


def _what_is_served(server: EmbeddedTriton, gateway: Gateway | None) -> list[str]:
    """Return lines that say what is served, where the page is, and what to type next."""
    lines = []
    if facts := model_facts(server.metrics(), "vision_encoder"):
        lines.append(f"model: {facts['checkpoint']}, {facts['precision']}, {facts['execution']}")
    if gateway is not None:
        lines.append(f"page: {gateway.url}/, REST API: {gateway.url}/docs")
    command = "tritonclip classify photo.jpg cat dog"
    if server.grpc_url.rpartition(":")[2] != DEFAULT_GRPC_PORT and server.options.tls is None:
        command += f" --url {server.grpc_url}"
    return [*lines, f"try: {command}"]


if __name__ == "__main__":
    main()
