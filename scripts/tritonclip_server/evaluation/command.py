"""Zero-shot accuracy of a served CLIP on labelled images, beside transformers on the same checkpoint.

python scripts/evaluate.py IMAGES --checkpoint CHECKPOINT --url localhost:8001
python scripts/evaluate.py IMAGES --checkpoint CHECKPOINT --repository REPOSITORY --output build/evaluation

IMAGES is a folder with a folder of images for each class, or a CSV file with the columns path and label.
Exit code 0: the two accuracies agree; 1: they do not, and what differs is said; 2: it could not be measured.
"""

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
from tritonclip_server.repository.checkpoint import CheckpointError, CheckpointFiles, locate
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions

if TYPE_CHECKING:
    from tritonclip_server.evaluation.report import ClassRow
    from tritonclip_server.evaluation.sides import Side

EXIT_DIFFERENT, EXIT_FAILED = 1, 2
_PATH = click.Path(path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Options:
    """What was asked for beside the data, see `main`."""

    url: str
    repository: Path | None
    files: CheckpointFiles
    templates: tuple[str, ...]
    output: Path | None
    tolerance: float
    explain: bool


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--checkpoint", required=True, help="What transformers loads: a hub id or a directory.")
@click.option("--revision", help="Commit, branch or tag of a hub checkpoint.")
@click.option("--url", default="localhost:8001", show_default=True, help="The server.")
@click.option("--repository", type=_PATH, help="Serve this model repository for the run, in place of --url.")
@click.option("--names", type=_FILE, help="JSON object: from a class's folder to its label.")
@click.option("--template", "given", multiple=True, help="Template with one {}; several are averaged.")
@click.option("--templates", "file", type=_FILE, help="File of templates, one a line.")
@click.option("--limit", type=click.IntRange(min=1), help="Images of each class.")
@click.option("--output", type=_PATH, help="Folder for report.json, classes.csv and confusion.png.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    help="By so much may the two accuracies differ.",
)
@click.option("--explain", is_flag=True, help="Look for differences even where the accuracies agree.")
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
    """Measure a server's zero-shot accuracy on IMAGES, and that of transformers."""
    try:
        templates = (*given, *(read_templates(file) if file else ())) or (DEFAULT_HYPOTHESIS_TEMPLATE,)
        data = read_images(images, names, limit)
        files = locate(checkpoint, revision)
        with _served(url, repository) as address:
            options = Options(address, repository, files, templates, output, tolerance, explain)
            agree = evaluate(data, options)
    except (DataError, CheckpointError, LaunchError, TritonClipError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(0 if agree else EXIT_DIFFERENT)


def evaluate(data: LabelledImages, options: Options) -> bool:
    """Measures both sides and prints the report; gives whether they agree."""
    from tritonclip_server.evaluation.differences import (  # with torch and transformers, which take seconds
        Run,
        explain,
    )
    from tritonclip_server.evaluation.report import Accuracy, class_rows
    from tritonclip_server.evaluation.sides import Reference, evaluate_server

    asked = (data.paths, data.labels, options.templates)
    with _progress("server", len(data)) as tell, Client(options.url) as client:
        found = evaluate_server(client, *asked, tell)
    reference = Reference(options.files.directory)
    with _progress("transformers", len(data)) as tell:
        expected = reference.evaluate(*asked, tell)
    _tell_data(data, options)
    server, other = (Accuracy.of(side, data.truth) for side in (found, expected))
    click.echo(f"server       {server}\ntransformers {other}")
    distance = _distance(found, expected)
    _tell_distance(distance)
    rows = class_rows(data, found, expected)
    agree = abs(server.share - other.share) <= options.tolerance
    reasons: list[str] = []
    if options.explain or not agree:
        run = Run(options.url, options.repository, options.files, reference, *asked, found, expected)
        reasons = explain(run)
    _tell_outcome(rows, reasons, agree, options.tolerance)
    if options.output:
        _write(options, data, (found, expected), {"agree": agree, "differences": reasons, **distance})
    return agree


def _tell_data(data: LabelledImages, options: Options) -> None:
    empty = len(data.labels) - len(set(data.truth))
    without = f", {empty} of them without images" if empty else ""
    templates = options.templates
    used = templates[0] if len(templates) == 1 else f"{len(templates)} templates, averaged"
    click.echo(f"{len(data)} images, {len(data.labels)} labels{without}, {used}")


def _distance(found: Side, expected: Side) -> dict[str, float]:
    """How far the two sides are from each other; scores and cosines of the images that both took."""
    both = np.array([n not in found.refused and n not in expected.refused for n in range(len(found.scores))])
    figures: dict[str, float] = {
        "other_best_labels": int((found.guesses != expected.guesses).sum()),
        "refused_by_server": len(found.refused),
        "refused_by_transformers": len(expected.refused),
        "score": float(np.abs(found.scores - expected.scores)[both].max(initial=0)),
    }
    if found.text_embeds.shape == expected.text_embeds.shape:
        images = (found.image_embeds * expected.image_embeds).sum(1)
        figures["image_cosine"] = float(images[both].min(initial=1))
        figures["label_cosine"] = float((found.text_embeds * expected.text_embeds).sum(1).min())
    return figures


def _tell_distance(distance: dict[str, float]) -> None:
    refused = distance["refused_by_server"], distance["refused_by_transformers"]
    cosines = [f"cosines of {name}s from {distance[f'{name}_cosine']:.7f}" for name in ("image", "label")]
    parts = [
        f"{distance['other_best_labels']} other best labels",
        f"scores within {distance['score']:.2g}",
        *(cosines if "label_cosine" in distance else []),
        *([f"refused {refused[0]} and {refused[1]} images"] if any(refused) else []),
    ]
    click.echo("between them  " + ", ".join(parts))


def _tell_outcome(rows: Sequence[ClassRow], reasons: Sequence[str], agree: bool, tolerance: float) -> None:
    from tritonclip_server.evaluation.report import table

    for line in table(rows):
        click.echo(line)
    click.echo(f"The accuracies {'agree' if agree else 'do not agree'} within {tolerance:.1%}.")
    for line in reasons:
        click.echo(f"- {line}")


def _write(
    options: Options, data: LabelledImages, sides: tuple[Side, Side], outcome: dict[str, object]
) -> None:
    from tritonclip_server.evaluation.report import Accuracy, class_rows, draw_confusion, write_csv

    folder = options.output
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(class_rows(data, *sides), folder / "classes.csv")
    draw_confusion(data, *sides, folder / "confusion.png")
    accuracies = [Accuracy.of(side, data.truth) for side in sides]
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
    """The address of the server: of the one given, or of one that serves the repository meanwhile."""
    if repository is None:
        yield url
        return
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        yield server.grpc_url


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, on standard error."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


if __name__ == "__main__":
    main()
