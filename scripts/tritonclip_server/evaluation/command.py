"""The command `tritonclip-server evaluate`: the zero-shot accuracy of a server and of transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress

from tritonclip import DEFAULT_HYPOTHESIS_TEMPLATE, Client, TritonClipError
from tritonclip_server.evaluation.data import DataError, LabelledImages, read_images, read_templates
from tritonclip_server.repository.checkpoint import read_checkpoint
from tritonclip_server.repository.checkpoint_files import CheckpointError, CheckpointFiles, locate
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions

if TYPE_CHECKING:
    from tritonclip_server.evaluation.predictions import Predictions
    from tritonclip_server.evaluation.report import ClassRow

EXIT_DIFFERENT, EXIT_FAILED = 1, 2
_PATH = click.Path(path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of the command, without those that select the data; see `main`."""

    url: str
    repository: Path | None
    files: CheckpointFiles
    templates: tuple[str, ...]
    output: Path | None
    tolerance: float
    explain: bool


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--checkpoint", required=True, help="Checkpoint for transformers: a hub id or a directory.")
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
@click.option("--url", default="localhost:8001", show_default=True, help="Address of the server.")
@click.option(
    "--repository",
    type=_PATH,
    help="Serve this model repository during the evaluation, instead of using --url.",
)
@click.option(
    "--names", type=_FILE, help="JSON file that maps folder names to labels; other folders are left out."
)
@click.option(
    "--template",
    "given",
    multiple=True,
    help="Hypothesis template with one {}. Repeat the option to average several.",
)
@click.option("--templates", "file", type=_FILE, help="File with one template per line.")
@click.option("--limit", type=click.IntRange(min=1), help="Maximum number of images per class.")
@click.option("--output", type=_PATH, help="Folder for report.json, classes.csv and confusion.png.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    help="Largest accepted difference of the two accuracies.",
)
@click.option("--explain", is_flag=True, help="Compare the stages even if the accuracies agree.")
def main(
    images: Path,
    checkpoint: str,
    revision: str | None,
    url: str,
    repository: Path | None,
    names: Path | None,
    given: tuple[str, ...],
    file: Path | None,
    limit: int | None,
    output: Path | None,
    tolerance: float,
    explain: bool,
) -> None:
    """Compare the zero-shot accuracy of a server on IMAGES with that of transformers.

    IMAGES is a folder with one subfolder per class, or a CSV file with the columns path and label.

    Exit codes: 0 if the accuracies agree; 1 if they differ, with the stages that cause it; 2 if the
    evaluation failed.
    """
    try:
        templates = (*given, *(read_templates(file) if file else ())) or (DEFAULT_HYPOTHESIS_TEMPLATE,)
        data = read_images(images, names, limit)
        files = locate(checkpoint, revision)
        read_checkpoint(files)  # transformers fills in missing tensors at random
        with _served(url, repository) as address:
            options = EvaluationOptions(address, repository, files, templates, output, tolerance, explain)
            agree = evaluate(data, options)
    except (DataError, CheckpointError, LaunchError, TritonClipError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(0 if agree else EXIT_DIFFERENT)


def evaluate(data: LabelledImages, options: EvaluationOptions) -> bool:
    """Evaluate the server and the reference, print the report, and return True if the accuracies agree."""
    # These modules import torch and transformers, which takes seconds.
    from tritonclip_server.evaluation.differences import Comparison, explain, image_processor
    from tritonclip_server.evaluation.predictions import predict_with_server, predict_with_transformers
    from tritonclip_server.evaluation.report import Accuracy, class_rows
    from tritonclip_server.repository.reference import Reference

    inputs = (data.paths, data.labels, options.templates)
    with _progress("server", len(data)) as on_progress, Client(options.url) as client:
        found = predict_with_server(client, *inputs, on_progress)
    reference = Reference(options.files.directory, image_processor=image_processor(options.url))
    with _progress("transformers", len(data)) as on_progress:
        expected = predict_with_transformers(reference, *inputs, on_progress)
    _print_data(data, options)
    server, transformers = (Accuracy.of(predictions, data.truth) for predictions in (found, expected))
    click.echo(f"server       {server}\ntransformers {transformers}")
    distance = _distance(found, expected)
    _print_distance(distance)
    rows = class_rows(data, found, expected)
    agree = abs(server.share - transformers.share) <= options.tolerance
    differences: list[str] = []
    if options.explain or not agree:
        comparison = Comparison(
            options.url, options.repository, options.files, reference, *inputs, found, expected
        )
        differences = explain(comparison)
    _print_outcome(rows, differences, agree, options.tolerance)
    if options.output:
        _write(options, data, (found, expected), {"agree": agree, "differences": differences, **distance})
    return agree


def _print_data(data: LabelledImages, options: EvaluationOptions) -> None:
    empty = len(data.labels) - len(set(data.truth))
    without = f", {empty} of them without images" if empty else ""
    templates = options.templates
    shown = templates[0] if len(templates) == 1 else f"{len(templates)} templates, averaged"
    click.echo(f"{len(data)} images, {len(data.labels)} labels{without}, {shown}")


def _distance(found: Predictions, expected: Predictions) -> dict[str, float]:
    """Measure the distance of two predictions; scores and cosines cover the images that both accepted."""
    rejected = found.rejected.keys() | expected.rejected.keys()
    both = np.array([n not in rejected for n in range(len(found.scores))])
    figures: dict[str, float] = {
        "other_best_labels": int((found.best_labels != expected.best_labels).sum()),
        "refused_by_server": len(found.rejected),
        "refused_by_transformers": len(expected.rejected),
        "score": float(np.abs(found.scores - expected.scores)[both].max(initial=0)),
    }
    if found.text_embeds.shape == expected.text_embeds.shape:
        images = (found.image_embeds * expected.image_embeds).sum(1)
        figures["image_cosine"] = float(images[both].min(initial=1))
        figures["label_cosine"] = float((found.text_embeds * expected.text_embeds).sum(1).min())
    return figures


def _print_distance(distance: dict[str, float]) -> None:
    rejected = distance["refused_by_server"], distance["refused_by_transformers"]
    cosines = [f"least cosine of {name}s {distance[f'{name}_cosine']:.7f}" for name in ("image", "label")]
    parts = [
        f"{distance['other_best_labels']} different best labels",
        f"scores within {distance['score']:.2g}",
        *(cosines if "label_cosine" in distance else []),
        *([f"rejected images: {rejected[0]} and {rejected[1]}"] if any(rejected) else []),
    ]
    click.echo("difference   " + ", ".join(parts))


def _print_outcome(
    rows: Sequence[ClassRow], differences: Sequence[str], agree: bool, tolerance: float
) -> None:
    from tritonclip_server.evaluation.report import table

    for line in table(rows):
        click.echo(line)
    click.echo(f"The accuracies {'agree' if agree else 'do not agree'} within {tolerance:.1%}.")
    for line in differences:
        click.echo(f"- {line}")


def _write(
    options: EvaluationOptions,
    data: LabelledImages,
    predictions: tuple[Predictions, Predictions],
    outcome: dict[str, object],
) -> None:
    from tritonclip_server.evaluation.report import Accuracy, class_rows, draw_confusion, write_csv

    folder = options.output
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(class_rows(data, *predictions), folder / "classes.csv")
    draw_confusion(data, *predictions, folder / "confusion.png")
    accuracies = [Accuracy.of(one, data.truth) for one in predictions]
    report = {
        "checkpoint": options.files.source,
        "sha256": options.files.sha256,
        "templates": options.templates,
        **{
            name: {
                "right": one.right,
                "images": one.images,
                "accuracy": one.share,
                "interval": one.interval(),
            }
            for name, one in zip(("server", "transformers"), accuracies, strict=True)
        },
        **outcome,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _served(url: str, repository: Path | None) -> Iterator[str]:
    """Yield the address of a server: `url`, or a server of the repository that runs until the block ends."""
    if repository is None:
        yield url
        return
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        yield server.grpc_url


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, if that is a terminal."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


if __name__ == "__main__":
    main()
