"""Entry point of the command `tritonclip`, which reports an error as one line and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click

from tritonclip import __version__
from tritonclip._cli import report
from tritonclip._cli.bulk import classify, embed, similarity
from tritonclip._cli.gateway import gateway, gateway_key
from tritonclip._cli.options import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE, EXIT_USAGE, EXITS
from tritonclip._cli.search import index, search
from tritonclip._cli.status import completion, health, models, stats
from tritonclip.errors import (
    DeadlineExceededError,
    InvalidInputError,
    LabelWarning,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
    TruncatedTextWarning,
)


class _Interrupted(click.ClickException):
    exit_code = 130


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # click itself would print an empty line
            raise _Interrupted("interrupted") from error


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Errors and warnings are one line each on standard error."""
    try:
        with warnings.catch_warnings():
            for kind in (LabelWarning, TruncatedTextWarning):
                warnings.simplefilter("always", kind)
            warnings.showwarning = _show_warnings_once()
            code = cli.main(
                args=None if args is None else list(args), prog_name="tritonclip", standalone_mode=False
            )
        return code if isinstance(code, int) else EXIT_OK
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort:
        return _fail("interrupted", _Interrupted.exit_code)
    except InvalidInputError as error:
        return _fail(str(error), EXIT_USAGE)
    except (ServerUnavailableError, ModelNotReadyError, DeadlineExceededError) as error:
        return _fail(str(error), EXIT_UNAVAILABLE)
    except TritonClipError as error:
        return _fail(str(error), EXIT_FAILED)
    except OSError as error:  # writing to standard output failed
        # Python flushes standard output at exit, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        gone = isinstance(error, BrokenPipeError)  # a reader such as `head` has closed the pipe
        return EXIT_FAILED if gone else _fail(f"cannot write to standard output: {error}", EXIT_FAILED)


def _show_warnings_once() -> Callable[..., None]:
    """Return a `showwarning` that prints each message once, as one line."""
    seen = set()

    def show(message: Warning | str, *details: object, **more: object) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            report.warn(str(message))

    return show


def _fail(message: str, code: int) -> int:
    report.fail(message)
    return code


@click.group(
    cls=_Group, epilog=EXITS, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="tritonclip")
def cli() -> None:
    """Zero-shot image classification and embeddings with CLIP on a Triton server.

    Options take precedence over the environment variables TRITONCLIP_URL, TRITONCLIP_PROTOCOL,
    TRITONCLIP_TIMEOUT_S and TRITONCLIP_API_KEY.
    """


for _command in (
    classify,
    embed,
    similarity,
    index,
    search,
    health,
    models,
    stats,
    gateway,
    gateway_key,
    completion,
):
    cli.add_command(_command)
