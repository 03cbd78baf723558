"""The subcommands for many inputs: classify, embed and similarity.

A run to standard output sends nothing but requests of up to `--batch-size` inputs. `similarity` also sends
its texts, once, and `classify` with several templates its sentences. A run into a file reads the identity of
the server's models before and after it, which its journal records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE, check_template, check_texts
from tritonclip._calls.codec import Ranking
from tritonclip._cli.formats import CLASSIFY, EMBED, SIMILARITY
from tritonclip._cli.inputs import (
    check_complete,
    check_not_empty,
    count_images,
    count_known,
    read_images,
    read_lines,
    read_texts,
    split_items,
)
from tritonclip._cli.options import (
    EXITS,
    GroupedCommand,
    Output,
    connection,
    many,
    null,
    output,
    preprocess,
    timed,
)
from tritonclip._cli.records import Record
from tritonclip._cli.run import BulkRun
from tritonclip._images.skipped import SkippedCounts
from tritonclip.classifier import ZeroShotClassifier
from tritonclip.client import Client
from tritonclip.errors import TritonClipError

_EPILOG = (
    """\b
Examples:
{examples}

IMAGE is a file, a directory (searched recursively), a pattern such as "*.jpg", an http(s) URL, or -
for a list on standard input with one path or URL per line.

On a terminal, one image gets a table, and several get one line each. A pipe gets one line per input of cells
separated by tabs: its name, then {cells}.

--output FILE writes the format of its suffix: .jsonl, .csv, .json{more}. During the run, results are kept in
FILE.partial. If the run is interrupted, repeat the same command with --resume to continue it. The last digits
of a result depend on what else is in its batch. To reproduce them, use --batch-size 1 --concurrency 1 on an
idle server.

An input that fails does not stop the run. Its error is in the results, and the exit code is 2. Files in
directories that are left out, such as .psd, are counted on standard error, and in --json.

"""
    + EXITS
)
_PARQUET = " and .parquet, with a row per input and {}"
_VECTORS = (
    ", .npy and .parquet (float32, NaN for failed inputs; a file *.inputs.jsonl names the rows of an .npy)"
)


def _bulk_command(cells: str, more: str, *examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a command for many inputs, with the options that all of them share.

    Args:
        cells: The cells after the name of an input in a pipe.
        more: Further formats of `--output`.
        examples: Arguments of the command, each with what they print.
    """

    def decorate(command: Callable[..., Any]) -> click.Command:
        options = connection(timed(preprocess(many(null(output(command))))))
        lines = "\n".join(f"  {example}" for example in examples)
        epilog = _EPILOG.format(cells=cells, more=more, examples=lines)
        return click.command(cls=GroupedCommand, epilog=epilog)(options)

    return decorate


@_bulk_command(
    "each label and its score",
    _PARQUET.format("label"),
    'tritonclip classify photo.jpg "a cat" "a dog"',
    "tritonclip classify photos/ --labels-file labels.txt -o labels.parquet",
    "tritonclip classify photos/ -l cat -l dog --top-k 1 --csv > labels.csv",
    'tritonclip classify photos/ cat dog --json | jq ".results[0]"',
    'tritonclip classify photos/ cat dog --template "a photo of a {}." --template "art of a {}."',
    "find . -name '*.jpg' | tritonclip classify - -l cat -l dog --jsonl",
)
@click.argument(
    "items", nargs=-1, required=True, metavar="IMAGE... [LABEL]...", type=click.Path(allow_dash=True)
)
@click.option("-l", "--label", "labels", multiple=True, help="Candidate label; repeatable.")
@click.option("--labels-file", type=click.Path(path_type=Path), help="UTF-8 file with one label per line.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="Sentence with {} for the label; repeat it to average several. "
    f"[default: {DEFAULT_HYPOTHESIS_TEMPLATE}]",
)
@click.option(
    "--templates-file", type=click.Path(path_type=Path), help="UTF-8 file with one template per line."
)
@click.option("--top-k", type=int, help="Maximum number of labels per image.")
@click.option("--threshold", type=float, help="Minimum score, 0 to 1.")
def classify(
    items: tuple[str, ...],
    labels: tuple[str, ...],
    labels_file: Path | None,
    templates: tuple[str, ...],
    templates_file: Path | None,
    top_k: int | None,
    threshold: float | None,
    connect: dict[str, Any],
    preprocess: str | None,
    many: dict[str, Any],
    null: bool,
    output: Output,
) -> int:
    """Rank labels for images.

    Leading arguments that name images are images, and the rest are labels. With --label or --labels-file, all
    arguments are images. A single label argument or --label is split at its commas, or is a JSON array;
    several are never split. The default labels are: object, animal, vehicle, person, food.
    """
    images, words = split_items(items, only_images=bool(labels or labels_file))
    words += labels
    given: list[str] | str | None = words[0] if len(words) == 1 and not labels_file else words or None
    if labels_file:
        given = [*words, *read_lines(labels_file, "--labels-file", "label")]
    if templates_file:
        templates += tuple(read_lines(templates_file, "--templates-file", "template"))
    first, *others = [check_template(one) for one in templates or [DEFAULT_HYPOTHESIS_TEMPLATE]]
    options: dict[str, Any] = {"top_k": top_k, "threshold": threshold}
    checked = Ranking.check(given, hypothesis_template=first, **options).labels
    with _client(connect, preprocess) as client:

        def send(inputs: Iterator[str], on_progress: Callable[..., None]) -> Iterator[Any]:
            bulk = options | _bulk_options(many, output, on_progress)
            if not others:
                return client.classify_many(inputs, checked, hypothesis_template=first, **bulk)
            classifier = ZeroShotClassifier(client, checked, templates=[first, *others])
            # The server has answered, so an outage from here on is waited for.
            return classifier.classify_many(inputs, **bulk | {"wait_for_server": True})

        return _over_images(
            client,
            images,
            null,
            kind=CLASSIFY,
            output=output,
            texts=checked,
            top_k=top_k,
            identity=lambda: {
                "labels": checked,
                "hypothesis_template": [first, *others] if others else first,
                **options,
                **_weights(client),
            },
            send=send,
        )


@_bulk_command(
    "the values of its vector",
    _VECTORS,
    "tritonclip embed photos/ -o vectors.npy --resume",
    "tritonclip embed photos/ -o vectors.parquet",
    "tritonclip embed photo.jpg --json",
    "tritonclip embed --text - --csv < texts.txt > vectors.csv",
)
@click.argument(
    "items", nargs=-1, required=True, metavar="IMAGE_OR_TEXT...", type=click.Path(allow_dash=True)
)
@click.option("--text", "as_text", is_flag=True, help="Treat arguments as texts; - reads a list from stdin.")
def embed(
    items: tuple[str, ...],
    as_text: bool,
    connect: dict[str, Any],
    preprocess: str | None,
    many: dict[str, Any],
    null: bool,
    output: Output,
) -> int:
    """Embed images or texts as unit vectors."""
    with _client(connect, preprocess) as client:
        if not as_text:
            return _over_images(
                client,
                split_items(items, only_images=True)[0],
                null,
                kind=EMBED,
                output=output,
                identity=lambda: {"of": "images", **_weights(client)},
                send=lambda inputs, on_progress: client.embed_images_many(
                    inputs, **_bulk_options(many, output, on_progress)
                ),
            )
        return BulkRun(
            kind=EMBED,
            output=output,
            inputs=read_texts(items, null=null),
            total=None if "-" in items else len(items),
            identity=lambda: {"of": "texts", **_weights(client)},
            send=lambda inputs, on_progress: client.embed_texts_many(
                inputs, **_bulk_options(many, output, on_progress)
            ),
            noun="text",
        ).start()


@_bulk_command(
    "each text and its cosine",
    _PARQUET.format("text"),
    'tritonclip similarity photo.jpg "a beach" "a forest"',
    "tritonclip similarity photos/ --texts-file texts.txt -o cosines.parquet",
    'tritonclip similarity photos/ -t "a beach" --csv > cosines.csv',
    'tritonclip similarity photos/ -t "a beach" --json',
)
@click.argument(
    "items", nargs=-1, required=True, metavar="IMAGE... [TEXT]...", type=click.Path(allow_dash=True)
)
@click.option("-t", "--text", "texts", multiple=True, help="Text; repeatable.")
@click.option("--texts-file", type=click.Path(path_type=Path), help="UTF-8 file with one text per line.")
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
    """Compare images with texts by cosine.

    The cosine of two embeddings is -1 to 1. Leading arguments that name images are images, and the rest are
    texts. With --text or --texts-file, all arguments are images. Texts are embedded without a template.
    """
    images, words = split_items(items, only_images=bool(texts or texts_file))
    words += [*texts, *(read_lines(texts_file, "--texts-file", "text") if texts_file else [])]
    if not words:
        raise click.UsageError("no text to compare with; give one after the images, or with --text")
    checked, _ = check_texts(words)
    with _client(connect, preprocess) as client:

        def send(inputs: Iterator[str], on_progress: Callable[..., None]) -> Iterator[Any]:
            text_embeds = client.embed_texts(checked)  # [m, d]
            # The server has answered, so an outage from here on is waited for.
            options = _bulk_options(many, output, on_progress) | {"wait_for_server": True}
            for vector in client.embed_images_many(inputs, **options):
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
            texts=checked,
            identity=lambda: {"texts": checked, **_weights(client)},
            send=send,
        )


def _client(connect: dict[str, Any], preprocess: str | None = None) -> Client:
    if preprocess is not None:
        connect = {**connect, "preprocess": preprocess}
    return Client(**connect)


def _weights(client: Client) -> Record:
    """Return the checksums of the weights of the server's models, and their identities."""
    models = client.models()
    return {
        "sha256": sorted({model.sha256 for model in models}),
        "identity": sorted({model.identity for model in models}),
    }


def _bulk_options(many: dict[str, Any], output: Output, on_progress: Callable[..., None]) -> dict[str, Any]:
    """Return the options of a bulk method.

    A run into a file has already read the server's weights. Any other run must report an unreachable server
    at its first request instead of waiting for it.
    """
    return {
        **many,
        "on_error": "return",
        "on_progress": on_progress,
        "wait_for_server": output.file is not None,
    }


def _over_images(client: Client, images: list[str], null: bool, *, output: Output, **run: Any) -> int:
    check_not_empty(images)
    if output.strict:
        check_complete(images)
    skipped = SkippedCounts()
    inputs = read_images(images, null=null, on_skip=skipped.add)
    return BulkRun(
        inputs=inputs,
        total=count_known(images),
        count=partial(count_images, images),
        output=output,
        skipped=skipped,
        **run,
    ).start()
