"""The subcommands over many inputs: classify, embed and similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE, check_texts
from tritonclip._calls.codec import Ranking
from tritonclip._cli.formats import CLASSIFY, EMBED, SIMILARITY
from tritonclip._cli.inputs import (
    check_not_empty,
    count_known,
    read_images,
    read_lines,
    read_texts,
    split_items,
)
from tritonclip._cli.options import EXITS, Output, connection, many, null, output, preprocess
from tritonclip._cli.records import Record
from tritonclip._cli.run import Run
from tritonclip.client import Client
from tritonclip.errors import TritonClipError

_EPILOG = (
    """IMAGE is a file, a directory (searched with all below it), a pattern such as "*.jpg", an http(s)
URL, or - for a list on standard input, one path or URL a line.

--output FILE takes its form from the suffix: .jsonl, .csv, .json{more}. While the run lasts its results
are in FILE.partial; if it is interrupted, the same command with --resume goes on from there. The last digits
of a result vary with what shares a batch with it; on an idle server --batch-size 1 --concurrency 1 repeats
them.

An input that fails does not stop the run; its error is in the result, and the exit code is 2.

"""
    + EXITS
)
_NPY = (
    ", .npy and .parquet (float32, NaN for a failed input; a file *.inputs.jsonl names the rows of an .npy)"
)


def _bulk_command(more: str = "") -> Callable[[Callable[..., Any]], click.Command]:
    """A command over many inputs, with the options that all of these share."""

    def decorate(command: Callable[..., Any]) -> click.Command:
        options = connection(preprocess(many(null(output(command)))))
        return click.command(epilog=_EPILOG.format(more=more))(options)

    return decorate


@_bulk_command()
@click.argument(
    "items", nargs=-1, required=True, metavar="IMAGE... [LABEL]...", type=click.Path(allow_dash=True)
)
@click.option("-l", "--label", "labels", multiple=True, help="A label; may be repeated.")
@click.option("--labels-file", type=click.Path(path_type=Path), help="UTF-8 text, one label a line.")
@click.option("--template", default=DEFAULT_HYPOTHESIS_TEMPLATE, show_default=True, help="{} is the label.")
@click.option("--top-k", type=int, help="Keep only this many labels an image.")
@click.option("--threshold", type=float, help="Keep only scores of at least this much, 0 to 1.")
def classify(
    items: tuple[str, ...],
    labels: tuple[str, ...],
    labels_file: Path | None,
    template: str,
    top_k: int | None,
    threshold: float | None,
    connect: dict[str, Any],
    preprocess: str | None,
    many: dict[str, Any],
    null: bool,
    output: Output,
) -> int:
    """Rank labels for images.

    The leading arguments that name images are the images, the rest are labels; with --label or --labels-file
    all of them are images. Without any label: object, animal, vehicle, person, food.
    """
    images, words = split_items(items, only_images=bool(labels or labels_file))
    words += [*labels, *(read_lines(labels_file, "--labels-file", "label") if labels_file else [])]
    options: dict[str, Any] = {"hypothesis_template": template, "top_k": top_k, "threshold": threshold}
    checked = Ranking.check(words or None, **options).labels
    with _client(connect, preprocess) as client:
        return _over_images(
            client,
            images,
            null,
            kind=CLASSIFY,
            output=output,
            decides=lambda: {"labels": checked, **options, **_weights(client)},
            ask=lambda inputs, on_progress: client.classify_many(
                inputs, checked, **options, **many, on_error="return", on_progress=on_progress
            ),
        )


@_bulk_command(_NPY)
@click.argument(
    "items", nargs=-1, required=True, metavar="IMAGE_OR_TEXT...", type=click.Path(allow_dash=True)
)
@click.option("--text", "as_text", is_flag=True, help="The arguments are texts; - for a list on stdin.")
def embed(
    items: tuple[str, ...],
    as_text: bool,
    connect: dict[str, Any],
    preprocess: str | None,
    many: dict[str, Any],
    null: bool,
    output: Output,
) -> int:
    """Embed images, or with --text texts, as vectors of unit length."""
    with _client(connect, preprocess) as client:
        if not as_text:
            return _over_images(
                client,
                split_items(items, only_images=True)[0],
                null,
                kind=EMBED,
                output=output,
                decides=lambda: {"of": "images", **_weights(client)},
                ask=lambda inputs, on_progress: client.embed_images_many(
                    inputs, **many, on_error="return", on_progress=on_progress
                ),
            )
        return Run(
            kind=EMBED,
            output=output,
            inputs=read_texts(items, null=null),
            total=None if "-" in items else len(items),
            decides=lambda: {"of": "texts", **_weights(client)},
            ask=lambda inputs, on_progress: client.embed_texts_many(
                inputs, **many, on_error="return", on_progress=on_progress
            ),
            noun="text",
        ).start()


@_bulk_command()
@click.argument(
    "items", nargs=-1, required=True, metavar="IMAGE... [TEXT]...", type=click.Path(allow_dash=True)
)
@click.option("-t", "--text", "texts", multiple=True, help="A text; may be repeated.")
@click.option("--texts-file", type=click.Path(path_type=Path), help="UTF-8, one text a line.")
def similarity(
    items: tuple[str, ...],
    texts: tuple[str, ...],
    texts_file: Path | None,
    connect: dict[str, Any],
    preprocess: str | None,
    many: dict[str, Any],
    null: bool,
    output: Output,
) -> int:
    """Compare images with texts: the cosine of their embeddings, -1 to 1, without a template.

    The leading arguments that name images are the images, the rest are texts; with --text or --texts-file all
    of them are images.
    """
    images, words = split_items(items, only_images=bool(texts or texts_file))
    words += [*texts, *(read_lines(texts_file, "--texts-file", "text") if texts_file else [])]
    if not words:
        raise click.UsageError("no text to compare with; give it after the images, or with --text")
    checked, _ = check_texts(words)
    with _client(connect, preprocess) as client:

        def ask(inputs: Iterator[str], on_progress: Callable[..., None]) -> Iterator[Any]:
            text_embeds = client.embed_texts(checked)  # [m, d]
            for vector in client.embed_images_many(
                inputs, **many, on_error="return", on_progress=on_progress
            ):
                if isinstance(vector, TritonClipError):
                    yield vector
                else:
                    cosines = np.clip(text_embeds @ vector, -1, 1).tolist()
                    yield [{"text": t, "cosine": c} for t, c in zip(checked, cosines, strict=True)]

        return _over_images(
            client,
            images,
            null,
            kind=SIMILARITY,
            output=output,
            decides=lambda: {"texts": checked, **_weights(client)},
            ask=ask,
        )


def _client(connect: dict[str, Any], preprocess: str | None = None) -> Client:
    if preprocess is not None:
        connect = {**connect, "preprocess": preprocess}
    return Client(**connect)


def _weights(client: Client) -> Record:
    """The checksum of the weights that a server's models share."""
    return {"sha256": sorted({model.sha256 for model in client.models()})}


def _over_images(client: Client, images: list[str], null: bool, **run: Any) -> int:
    check_not_empty(images)
    return Run(inputs=read_images(images, null=null), total=count_known(images), **run).start()
