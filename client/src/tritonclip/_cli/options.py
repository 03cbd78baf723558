"""Exit codes, help pages, and groups of options that several commands share and receive as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from tritonclip._bulk import check_plan
from tritonclip._calls.timings import collect_timings
from tritonclip._cli import report

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNAVAILABLE = 0, 1, 2, 3
EXITS = """Exit codes: 0 ok; 1 server or inference error; 2 usage or invalid input, also if one of many inputs
failed; 3 server unavailable, not ready, or too slow; 130 interrupted."""

F = TypeVar("F", bound=Callable[..., Any])
Options = dict[str, Callable[[Any], Any]]


class GroupedCommand(click.Command):
    """A command whose help page lists its options in groups, and those of the connection last.

    Args:
        *args: See `click.Command`.
        groups: Names of the parameters of each further group, by the group's title.
        **attributes: See `click.Command`.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Collection[str]] = {}, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group of options."""
        groups = {**self._groups, **_SHARED_GROUPS}
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Options", *groups)}
        for param in self.get_params(ctx):
            title = next((title for title, names in groups.items() if param.name in names), "Options")
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                sections[title].append(record)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Destination of the records.

    Attributes:
        form: Format on standard output: `table`, `json`, `jsonl` or `csv`.
        file: File to write instead, in the format of its suffix; None for standard output.
        resume: Continue an interrupted run from its journal.
        fail_fast: Stop at the first input that fails.
        strict: Do not start if a directory has files that may be images and would be left out.
    """

    form: str
    file: Path | None
    resume: bool
    fail_fast: bool
    strict: bool = False


def _grouped(into: str, make: Callable[..., Any], options: Options) -> Callable[[F], F]:
    """Return a decorator that adds options to a command and passes them as the single argument `into`."""

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
    """Check the options of a bulk method, so that an invalid one is reported before any request."""
    given = _given(**values)
    check_plan(1, on_error="return", **given)
    return given


def _client_options(*, header: tuple[str, ...], **values: Any) -> dict[str, Any]:
    return _given(**values, headers=parse_headers(header) or None)


def parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """Parse `NAME:VALUE` headers.

    Raises:
        click.UsageError: If a header has no colon or no name.
    """
    parsed = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.UsageError("--header: expected NAME:VALUE")  # omits the header, which may be secret
        parsed[name.strip()] = value.strip()
    return parsed


def _output(
    *,
    json: bool,
    jsonl: bool,
    csv: bool,
    output: Path | None,
    resume: bool,
    fail_fast: bool,
    strict: bool,
) -> Output:
    forms = [form for form, chosen in {"json": json, "jsonl": jsonl, "csv": csv}.items() if chosen]
    if len(forms) > 1:
        raise click.UsageError(f"--{forms[0]} and --{forms[1]}: choose one")
    if forms and output is not None:
        raise click.UsageError(
            f"--{forms[0]} is for standard output; --output takes its format from the suffix"
        )
    if resume and output is None:
        raise click.UsageError("--resume needs --output FILE, the file of the run to continue")
    form = forms[0] if forms else "table"
    return Output(form=form, file=output, resume=resume, fail_fast=fail_fast, strict=strict)


_FILE = click.Path(path_type=Path)

_CONNECTION_OPTIONS: Options = {
    "url": click.option(
        "--url",
        help="host:port, optionally prefixed with grpc://, grpcs://, http:// or https://; several "
        "separated by commas. A gateway needs http:// or https://. [default: localhost]",
    ),
    "protocol": click.option("--protocol", type=click.Choice(["grpc", "http"]), help="[default: grpc]"),
    "timeout_s": click.option(
        "--timeout", "timeout_s", type=float, help="Deadline of each call in seconds. [default: 30]"
    ),
    "api_key": click.option(
        "--api-key", help="Bearer token. Prefer TRITONCLIP_API_KEY, which other users cannot see."
    ),
    "header": click.option(
        "--header", multiple=True, metavar="NAME:VALUE", help="Header for every request; repeatable."
    ),
    "ca_file": click.option("--ca-file", type=_FILE, help="Trusted certificate authorities, PEM."),
    "cert_file": click.option("--cert-file", type=_FILE, help="Client certificate, PEM."),
    "key_file": click.option("--key-file", type=_FILE, help="Private key of the client certificate, PEM."),
    "compression": click.option(
        "--compression", type=click.Choice(["gzip", "deflate"]), help="Compress requests and responses."
    ),
    "attempts": click.option("--attempts", type=int, help="Maximum attempts per call, 1 to 5. [default: 4]"),
}
connection = _grouped("connect", _client_options, _CONNECTION_OPTIONS)
"""Adds `connect`: the keyword arguments of `Client`."""

_MANY_OPTIONS: Options = {
    "batch_size": click.option("--batch-size", type=int, help="Maximum inputs per request."),
    "concurrency": click.option("--concurrency", type=int, help="Maximum requests in flight."),
    "patience_s": click.option(
        "--patience",
        "patience_s",
        type=float,
        help="Maximum time to retry a request while the server is unavailable, in seconds. [default: 60]",
    ),
}
many = _grouped("many", _many, _MANY_OPTIONS)
"""Adds `many`: the keyword arguments of the client's bulk methods."""

strict = click.option(
    "--strict",
    is_flag=True,
    help="Do not start if a directory has files that may be images and would be left out.",
)

_OUTPUT_OPTIONS: Options = {
    "json": click.option("--json", is_flag=True, help="Print one JSON document, with the time in ms."),
    "jsonl": click.option(
        "--jsonl", is_flag=True, help="Print one line of JSON per input, as results arrive."
    ),
    "csv": click.option(
        "--csv", is_flag=True, help="Print CSV. A text like a formula gets an apostrophe in front."
    ),
    "output": click.option(
        "-o",
        "--output",
        type=_FILE,
        metavar="FILE",
        help="Write a file in the format of its suffix; see below.",
    ),
    "resume": click.option("--resume", is_flag=True, help="Continue an interrupted run to FILE."),
    "fail_fast": click.option("--fail-fast", is_flag=True, help="Stop at the first input that fails."),
    "strict": strict,
}
output = _grouped("output", _output, _OUTPUT_OPTIONS)
"""Adds `output`: an `Output`."""

preprocess = click.option(
    "--preprocess",
    type=click.Choice(["server", "client"]),
    help="Side that decodes and resizes images. [default: server]",
)


_TIMINGS = click.option("--timings", is_flag=True, help="Print where the time of the requests went.")


def timed(command: F) -> F:
    """Add the flag `--timings`, which has the client measure its calls and prints where their time went."""

    @functools.wraps(command)
    def run(*args: Any, timings: bool, connect: dict[str, Any], **values: Any) -> Any:
        if not timings:
            return command(*args, connect=connect, **values)
        with collect_timings() as collected:
            code = command(*args, connect=connect | {"timings": True}, **values)
        report.timings(collected)
        return code

    return _TIMINGS(run)  # type: ignore[return-value]


null = click.option(
    "-0", "--null", is_flag=True, help="Separate the list on standard input by NULs, not line ends."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_SHARED_GROUPS: dict[str, Collection[str]] = {
    "Output": {*_OUTPUT_OPTIONS, "as_json", "html"},
    "Requests": {*_MANY_OPTIONS, "preprocess", "timings"},
    "Connection": set(_CONNECTION_OPTIONS),
}
