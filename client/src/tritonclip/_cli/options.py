"""What several commands share: exit codes, and groups of options, each handed over as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from tritonclip._bulk import check_plan

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNAVAILABLE = 0, 1, 2, 3
EXITS = """Exit codes: 0 ok; 1 server or inference error; 2 usage or invalid input; 3 server
unavailable, not ready, or too slow; 130 interrupted."""

F = TypeVar("F", bound=Callable[..., Any])
Options = dict[str, Callable[[Any], Any]]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the records go.

    Attributes:
        form: `table`, `json`, `jsonl` or `csv`, on standard output.
        file: The file to write instead, in the form of its suffix; None for standard output.
        resume: Go on with what an interrupted run has kept beside `file`.
        fail_fast: Stop at the first input that fails.
    """

    form: str
    file: Path | None
    resume: bool
    fail_fast: bool


def _grouped(into: str, make: Callable[..., Any], options: Options) -> Callable[[F], F]:
    """Add options to a command, which gets them as the one argument `into`."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def gathered(*args: Any, **values: Any) -> Any:
            values[into] = make(**{name: values.pop(name) for name in options})
            return command(*args, **values)

        for option in reversed(options.values()):
            gathered = option(gathered)
        return gathered  # type: ignore[return-value]

    return decorate


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _many(**values: Any) -> dict[str, Any]:
    """Checked here, so that a wrong one is told of before any server is asked."""
    given = _given(**values)
    check_plan(1, on_error="return", **given)
    return given


def _client_options(*, header: tuple[str, ...], **values: Any) -> dict[str, Any]:
    return _given(**values, headers=parse_headers(header) or None)


def parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """`NAME:VALUE` each, to a mapping.

    Raises:
        click.UsageError: If one has no colon or no name.
    """
    parsed = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.UsageError("--header: expected NAME:VALUE")  # without the text, which may be secret
        parsed[name.strip()] = value.strip()
    return parsed


def _output(
    *, json: bool, jsonl: bool, csv: bool, output: Path | None, resume: bool, fail_fast: bool
) -> Output:
    forms = [form for form, chosen in {"json": json, "jsonl": jsonl, "csv": csv}.items() if chosen]
    if len(forms) > 1:
        raise click.UsageError(f"--{forms[0]} and --{forms[1]}: choose one")
    if forms and output is not None:
        raise click.UsageError(
            f"--{forms[0]} is for standard output; --output takes the form from the suffix"
        )
    if resume and output is None:
        raise click.UsageError("--resume needs --output FILE, whose run it continues")
    return Output(form=forms[0] if forms else "table", file=output, resume=resume, fail_fast=fail_fast)


_FILE = click.Path(path_type=Path)

connection = _grouped(
    "connect",
    _client_options,
    {
        "url": click.option(
            "--url",
            help="host:port, with grpc://, grpcs://, http:// or https:// in front if need be; "
            "several with commas. [default: localhost]",
        ),
        "protocol": click.option("--protocol", type=click.Choice(["grpc", "http"]), help="[default: grpc]"),
        "timeout_s": click.option(
            "--timeout", "timeout_s", type=float, help="Deadline of a call in seconds. [default: 30]"
        ),
        "api_key": click.option(
            "--api-key", help="Sent as a bearer token; better in TRITONCLIP_API_KEY, which no one else sees."
        ),
        "header": click.option(
            "--header", multiple=True, metavar="NAME:VALUE", help="Sent with every request; may be repeated."
        ),
        "ca_file": click.option("--ca-file", type=_FILE, help="PEM, the authorities to trust."),
        "cert_file": click.option("--cert-file", type=_FILE, help="PEM, this client's certificate."),
        "key_file": click.option("--key-file", type=_FILE, help="PEM, its private key."),
        "compression": click.option(
            "--compression", type=click.Choice(["gzip", "deflate"]), help="Of requests and answers."
        ),
        "attempts": click.option("--attempts", type=int, help="Tries of a call in all, 1 to 5. [default: 4]"),
    },
)
"""Gives `connect`: the keyword arguments of `Client`."""

many = _grouped(
    "many",
    _many,
    {
        "batch_size": click.option("--batch-size", type=int, help="Inputs in a request."),
        "concurrency": click.option("--concurrency", type=int, help="Requests under way at once."),
    },
)
"""Gives `many`: the keyword arguments of the client's bulk methods."""

output = _grouped(
    "output",
    _output,
    {
        "json": click.option("--json", is_flag=True, help="Print one JSON document."),
        "jsonl": click.option("--jsonl", is_flag=True, help="Print a line of JSON an input, as they come."),
        "csv": click.option("--csv", is_flag=True, help="Print CSV."),
        "output": click.option("-o", "--output", type=_FILE, metavar="FILE", help="Write a file; see below."),
        "resume": click.option("--resume", is_flag=True, help="Continue an interrupted run into FILE."),
        "fail_fast": click.option("--fail-fast", is_flag=True, help="Stop at the first input that fails."),
    },
)
"""Gives `output`: an `Output`."""

preprocess = click.option(
    "--preprocess",
    type=click.Choice(["server", "client"]),
    help="Where images are decoded and resized. [default: server]",
)
null = click.option("-0", "--null", is_flag=True, help="NULs, not line ends, separate the list on stdin.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
