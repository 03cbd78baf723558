"""The demo: serves a repository with the embedded Triton and classifies sample images over gRPC and HTTP."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tritonclip import Client, Prediction

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from triton_launcher import EmbeddedTriton, LaunchError, ServerOptions  # noqa: E402

SHOWN = 3
REPEATS = 5


def classify(client: Client, image: Path, labels: list[str]) -> tuple[list[Prediction], float]:
    """Ranks the labels for one image a few times; returns the ranking and the median time in milliseconds."""
    times_ms = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ranking = client.classify(image, labels)
        times_ms.append((time.perf_counter() - start) * 1000)
    return ranking, statistics.median(times_ms)


def cells(ranking: list[Prediction]) -> list[str]:
    """The best labels with their scores in per cent."""
    return [f"{found['label']} [dim]{found['score']:.1%}[/dim]" for found in ranking[:SHOWN]]


@click.command()
@click.argument("repository", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path, exists=True), default=HERE / "images", help="A folder."
)
def main(repository: Path, images: Path) -> None:
    """Serves REPOSITORY, classifies the sample images, prints the rankings, and stops the server."""
    samples = json.loads((images / "labels.json").read_text(encoding="utf-8"))
    labels: list[str] = samples["labels"]
    console = Console()
    start = time.perf_counter()
    try:
        with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
            console.print(f"Triton serves {repository}, ready after {time.perf_counter() - start:.1f} s")
            table = Table(
                "image", *("best", "second", "third"), "gRPC ms", "HTTP ms", title="Zero-shot classification"
            )
            with Client(server.grpc_url) as grpc, Client(server.http_url, protocol="http") as http:
                grpc.classify(
                    images / next(iter(samples["images"])), labels
                )  # The labels are encoded once, here.
                for name in samples["images"]:
                    ranking, grpc_ms = classify(grpc, images / name, labels)
                    same, http_ms = classify(http, images / name, labels)
                    if ranking != same:
                        raise click.ClickException(f"{name}: gRPC and HTTP disagree: {ranking} and {same}")
                    table.add_row(name, *cells(ranking), f"{grpc_ms:.1f}", f"{http_ms:.1f}")
            console.print(table)
            console.print(f"{len(labels)} labels: {', '.join(labels)}", style="dim")
        console.print("Triton stopped")
    except LaunchError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
