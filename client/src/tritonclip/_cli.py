"""The command `tritonclip`: classify, embed and health against a running server."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from tritonclip import __version__, _report
from tritonclip._checks import DEFAULT_HYPOTHESIS_TEMPLATE
from tritonclip.client import Client
from tritonclip.errors import (
    DeadlineExceededError,
    InvalidInputError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
    TruncatedTextWarning,
)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNAVAILABLE = 0, 1, 2, 3
_EPILOG = "Exit codes: 0 ok; 1 server or inference error; 2 usage or invalid input; 3 server unavailable, \
not ready, or too slow."
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}

F = TypeVar("F", bound=Callable[..., Any])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; every error or warning is one line on stderr."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", TruncatedTextWarning)
            warnings.showwarning = _show_warning
            code = cli.main(
                args=None if args is None else list(args), prog_name="tritonclip", standalone_mode=False
            )
        return code if isinstance(code, int) else EXIT_OK
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort:
        return _fail("interrupted", 130)
    except InvalidInputError as error:
        return _fail(str(error), EXIT_USAGE)
    except (ServerUnavailableError, ModelNotReadyError, DeadlineExceededError) as error:
        return _fail(str(error), EXIT_UNAVAILABLE)
    except TritonClipError as error:
        return _fail(str(error), EXIT_FAILED)
    except BrokenPipeError:  # the reader, as `head`, has what it wants; spare Python's own complaint at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _show_warning(message: Warning | str, *details: object, **more: object) -> None:
    click.echo(f"tritonclip: warning: {message}", err=True)


def _fail(message: str, code: int) -> int:
    click.echo(f"tritonclip: error: {' '.join(message.split())}", err=True)
    return code


def _connection(command: F) -> F:
    """The options of every command that say how to reach the server."""
    for option in (
        click.option(
            "--timeout", "timeout_s", type=float, help="Deadline of a call in seconds [default: 30]."
        ),
        click.option("--protocol", type=click.Choice(["grpc", "http"]), help="[default: grpc]"),
        click.option("--url", help="host:port, or grpc://host:port, http://host:port [default: localhost]."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ):
        command = option(command)
    return command


@click.group(epilog=_EPILOG, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tritonclip")
def cli() -> None:
    """Zero-shot image classification with CLIP on a Triton server.

    The options --url, --protocol and --timeout come before the environment's TRITONCLIP_URL,
    TRITONCLIP_PROTOCOL and TRITONCLIP_TIMEOUT_S.
    """


@cli.command(epilog=_EPILOG)
@click.argument("items", nargs=-1, required=True, metavar="IMAGE... [LABEL]...")
@click.option("-l", "--label", "labels", multiple=True, help="A label; may be repeated.")
@click.option("--labels-file", type=click.Path(path_type=Path), help="UTF-8 text, one label a line.")
@click.option("--template", default=DEFAULT_HYPOTHESIS_TEMPLATE, show_default=True, help="{} is the label.")
@click.option("--top-k", type=int, help="Show only this many labels an image.")
@click.option("--threshold", type=float, help="Show only scores of at least this much, 0 to 1.")
@_connection
def classify(
    items: tuple[str, ...],
    labels: tuple[str, ...],
    labels_file: Path | None,
    template: str,
    top_k: int | None,
    threshold: float | None,
    url: str | None,
    protocol: str | None,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Rank labels for images.

    The leading arguments that are files are the images, the rest are labels. Without any label: object,
    animal, vehicle, person, food.
    """
    images, words = split_items(items)
    words += [*labels, *(_read_labels(labels_file) if labels_file else [])]
    with Client(url, protocol=protocol, timeout_s=timeout_s) as client:
        start = time.perf_counter()
        ranked = client.classify(
            images, words or None, hypothesis_template=template, top_k=top_k, threshold=threshold
        )
        elapsed_ms = (time.perf_counter() - start) * 1000
    if as_json:
        results = [{"image": i, "predictions": p} for i, p in zip(images, ranked, strict=True)]
        _print_json({"results": results, "elapsed_ms": round(elapsed_ms, 3)})
    else:
        _report.predictions(images, ranked, elapsed_ms)


@cli.command(epilog=_EPILOG)
@click.argument("items", nargs=-1, required=True, metavar="IMAGE_OR_TEXT...")
@click.option("--text", "as_text", is_flag=True, help="The arguments are texts, not image files.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a float32 [n, d] array, .npy.")
@_connection
def embed(
    items: tuple[str, ...],
    as_text: bool,
    output: Path | None,
    url: str | None,
    protocol: str | None,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Embed images, or with --text texts, as vectors of unit length."""
    if output is not None and output.suffix != ".npy":
        raise click.UsageError(f"--output {output}: the name must end in .npy")
    with Client(url, protocol=protocol, timeout_s=timeout_s) as client:
        start = time.perf_counter()
        vectors = client.embed_texts(list(items)) if as_text else client.embed_images(list(items))
        elapsed_ms = (time.perf_counter() - start) * 1000
    if output is not None:
        try:
            np.save(output, vectors)
        except OSError as error:
            raise click.UsageError(f"--output {output}: cannot write: {error}") from error
    if as_json:
        results = [{"input": i, "embedding": v} for i, v in zip(items, vectors.tolist(), strict=True)]
        _print_json({"results": results, "elapsed_ms": round(elapsed_ms, 3)})
    else:
        _report.embeddings(items, vectors, elapsed_ms, output)


@cli.command(epilog=_EPILOG)
@_connection
def health(url: str | None, protocol: str | None, timeout_s: float | None, as_json: bool) -> int:
    """Ask whether the server and its models are ready."""
    with Client(url, protocol=protocol, timeout_s=timeout_s) as client:
        state = client.health()
        endpoint = client.endpoint
    if as_json:
        _print_json(
            {
                "endpoint": endpoint,
                "ok": state.ok,
                "live": state.live,
                "ready": state.ready,
                "models": dict(state.models),
            }
        )
    else:
        _report.health(endpoint, state)
    return EXIT_OK if state.ok else EXIT_UNAVAILABLE


def split_items(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split positional arguments into images, the leading ones that are files, and labels.

    Raises:
        click.UsageError: If the first is no file, or a later one looks like an image file among the labels.
    """
    first_label = next((i for i, item in enumerate(items) if not Path(item).is_file()), len(items))
    images, labels = list(items[:first_label]), list(items[first_label:])
    if not images:
        problem = "is a directory" if Path(items[0]).is_dir() else "no such file"
        raise click.UsageError(f"{items[0]}: {problem}; the arguments begin with at least one image file")
    for label in labels:
        if Path(label).suffix.lower() in _IMAGE_SUFFIXES:
            problem = "images go before the labels" if Path(label).is_file() else "no such file"
            raise click.UsageError(f"{label}: {problem}; if it is a label, give it with --label")
    return images, labels


def _read_labels(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--labels-file {path}: cannot read: {error}") from error
    labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise click.UsageError(f"--labels-file {path}: holds no label; write one a line")
    return labels


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
