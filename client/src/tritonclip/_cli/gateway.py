"""The subcommands `gateway`, which serves the REST gateway, and `gateway-key`, which creates keys for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from tritonclip._cli.options import EXITS, GroupedCommand, connection
from tritonclip.errors import InvalidInputError

MIB = 2**20
_FILE = click.Path(path_type=Path)
_EXAMPLES = """\b
Examples:
  tritonclip gateway --url localhost:8001
  tritonclip gateway --host 0.0.0.0 --keys-file keys.txt --rate-limit 100/minute

"""


@click.command(
    cls=GroupedCommand,
    epilog=_EXAMPLES + EXITS,
    groups={
        "Access and limits": {
            "keys_file",
            "open_endpoints",
            "rate_limit",
            "rate_storage",
            "max_body_mib",
            "max_images",
            "max_requests",
            "max_mib",
            "body_timeout",
        },
        "Images by URL": {"allow_urls", "url_network", "url_port"},
        "HTTPS, proxies and pages": {
            "keep_alive",
            "cors_origin",
            "root_path",
            "forwarded_allow_ips",
            "tls_cert",
            "tls_key",
        },
        "Logs and traces": {"trace", "log_format"},
    },
)
@connection
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--port", default=8080, show_default=True, help="0 picks a free port.")
@click.option("--keys-file", type=_FILE, help="API keys that callers must send; lines from gateway-key.")
@click.option(
    "--open-endpoints",
    multiple=True,
    metavar="DIALECT",
    help="Dialect that needs no key, such as weaviate; repeatable. Only for private networks.",
)
@click.option(
    "--rate-limit", metavar="RATE", help="Limit per key, or per address without keys, such as 100/minute."
)
@click.option(
    "--rate-storage",
    default="memory://",
    show_default=True,
    help="Shared counters, such as async+redis://host:6379.",
)
@click.option("--max-body-mib", default=64, show_default=True, help="Maximum body size per request, in MiB.")
@click.option("--max-images", default=256, show_default=True, help="Maximum images per request.")
@click.option(
    "--max-requests", default=256, show_default=True, help="Maximum requests in flight; further ones get 503."
)
@click.option(
    "--max-mib",
    default=1024,
    show_default=True,
    help="Maximum MiB of bodies in flight; further ones get 503.",
)
@click.option(
    "--body-timeout", default=60.0, show_default=True, help="Seconds within which a body must arrive."
)
@click.option(
    "--keep-alive",
    default=75,
    show_default=True,
    help="Seconds to keep an idle connection; more than a load balancer in front keeps it.",
)
@click.option("--allow-urls", is_flag=True, help="Fetch images by URL from public hosts.")
@click.option(
    "--url-network", multiple=True, metavar="CIDR", help="Private network to allow for URLs; repeatable."
)
@click.option(
    "--url-port", multiple=True, type=int, help="Port to allow for URLs; repeatable. [default: 80, 443]"
)
@click.option("--index", metavar="PLACE", help="Index from tritonclip index, for /search and /v1/search.")
@click.option(
    "--model-alias",
    multiple=True,
    metavar="NAME",
    help="Further name of the model, such as text-embedding-3-small; repeatable. NAME=MODEL holds only while "
    "MODEL is served.",
)
@click.option(
    "--token-arrays",
    metavar="ENCODING",
    help="Read texts sent as arrays of tokens in this encoding of tiktoken, such as cl100k_base.",
)
@click.option(
    "--cors-origin", multiple=True, metavar="ORIGIN", help="Origin whose pages may call; repeatable."
)
@click.option("--root-path", default="", help="Path prefix that a proxy removes, such as /clip.")
@click.option(
    "--forwarded-allow-ips",
    default="",
    metavar="ADDRESSES",
    help="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, "
    "separated by commas. [default: none]",
)
@click.option("--tls-cert", type=_FILE, help="Certificate for HTTPS, PEM.")
@click.option("--tls-key", type=_FILE, help="Private key of the certificate, PEM.")
@click.option(
    "--trace/--no-trace",
    default=None,
    help="Export traces by OTLP. [default: on if OTEL_EXPORTER_OTLP_ENDPOINT is set]",
)
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
def gateway(
    connect: dict[str, Any],
    host: str,
    port: int,
    keys_file: Path | None,
    open_endpoints: tuple[str, ...],
    rate_limit: str | None,
    rate_storage: str,
    max_body_mib: int,
    max_images: int,
    max_requests: int,
    max_mib: int,
    body_timeout: float,
    keep_alive: int,
    allow_urls: bool,
    url_network: tuple[str, ...],
    url_port: tuple[int, ...],
    index: str | None,
    model_alias: tuple[str, ...],
    token_arrays: str | None,
    cors_origin: tuple[str, ...],
    root_path: str,
    forwarded_allow_ips: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    trace: bool | None,
    log_format: str,
) -> None:
    """Serve a REST API and a web page.

    The gateway runs in front of Triton until Ctrl-C. --timeout is the deadline of a request. --attempts
    defaults to 2. API keys come from --keys-file and TRITONCLIP_GATEWAY_KEYS. Without keys, anyone who can
    reach the port may call. --api-key is the gateway's own key for a proxy in front of Triton. The standard
    OpenTelemetry variables configure tracing, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER.
    """
    from tritonclip.gateway import GatewaySettings, create_app
    from tritonclip.gateway._serve import serve
    from tritonclip.gateway.observability.tracing import is_configured, start_tracing

    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    given: dict[str, Any] = {"url_ports": url_port} if url_port else {}
    if "timeout_s" in connect:
        given["timeout_s"] = connect["timeout_s"]
    settings = GatewaySettings.from_env(
        os.environ,
        keys_file=keys_file,
        rate_limit=rate_limit,
        rate_storage=rate_storage,
        max_body_bytes=max_body_mib * MIB,
        max_images=max_images,
        max_requests=max_requests,
        max_bytes=max_mib * MIB,
        body_timeout_s=body_timeout,
        keep_alive_s=keep_alive,
        allow_urls=allow_urls,
        url_networks=url_network,
        index=index,
        model_aliases=model_alias,
        token_arrays=token_arrays,
        open_endpoints=open_endpoints,
        cors_origins=cors_origin,
        **given,
    )
    if is_configured(os.environ) if trace is None else trace:
        start_tracing()
    serve(
        create_app(settings, **connect),
        settings,
        log_format,
        host=host,
        port=port,
        root_path=root_path,
        forwarded_allow_ips=forwarded_allow_ips,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )


@click.command(epilog=EXITS)
@click.argument("name")
@click.option("--append-to", type=_FILE, metavar="FILE", help="Append the line to a keys file.")
def gateway_key(name: str, append_to: Path | None) -> None:
    """Create an API key for the gateway.

    The gateway logs NAME, never the key. The key is printed once. Only its digest is stored, as a line for
    --keys-file or TRITONCLIP_GATEWAY_KEYS. To revoke a key, remove its line; a running gateway notices within
    seconds.
    """
    from tritonclip.gateway.access.keys import NAME, digest, make_key, parse_keys

    if not NAME.fullmatch(name):
        raise InvalidInputError(f"name {name!r}: expected 1 to 64 letters, digits, '.', '_', '@' and '-'")
    key = make_key()
    line = f"{name}:{digest(key)}"
    if append_to is not None:
        before = append_to.read_text("utf-8") if append_to.exists() else ""
        if name in parse_keys(before, str(append_to)):
            raise InvalidInputError(f"{append_to}: {name!r} already has a key; remove its line to replace it")
        append_to.touch(mode=0o600)
        append_to.write_text(f"{before.rstrip()}\n{line}\n".lstrip(), "utf-8")
    click.echo(key)
    click.echo(f"this key is not shown again; its line: {line}", err=True)
