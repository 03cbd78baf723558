"""A tour of the system: serve a repository with the embedded Triton, and classify the sample images."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tritonclip import Client, Prediction
from tritonclip_server.paths import DEMO_IMAGES
from tritonclip_server.repository import prepare
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions

SHOWN_LABELS = 3
REPEATS = 3


def classify(client: Client, image: Path, labels: list[str]) -> tuple[list[Prediction], float]:
    """Classify an image a few times; return the ranking and the median time in milliseconds."""
    times_ms = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ranking = client.classify(image, labels)
        times_ms.append((time.perf_counter() - start) * 1000)
    return ranking, statistics.median(times_ms)


def format_ranking(ranking: list[Prediction]) -> str:
    """Format the best labels with their scores in per cent, one per line."""
    return "\n".join(f"{found['score']:6.1%}  {found['label']}" for found in ranking[:SHOWN_LABELS])


@click.command()
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--checkpoint", help="Checkpoint to prepare REPOSITORY from, unless it is up to date.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True),
    default=DEMO_IMAGES,
    help="Folder of images with a labels.json.",
)
def main(repository: Path, checkpoint: str | None, images: Path) -> None:
    """Serve REPOSITORY, classify the sample images over gRPC and HTTP, and print the rankings."""
    if checkpoint is not None:
        prepare.main(
            [checkpoint, "--output", str(repository), "--force", "--set", "vision_encoder.compile=off"],
            standalone_mode=False,
        )
    samples = json.loads((images / "labels.json").read_text(encoding="utf-8"))
    labels: list[str] = samples["candidate_labels"]
    expected: dict[str, str] = samples["expected"]
    console = Console()
    start = time.perf_counter()
    try:
        with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
            console.print(f"Triton serves {repository}, ready after {time.perf_counter() - start:.1f} s")
            table = Table("image", f"best {SHOWN_LABELS} of {len(labels)} labels", "gRPC", "HTTP", box=None)
            right = 0
            with Client(server.grpc_url) as grpc, Client(server.http_url, protocol="http") as http:
                grpc.classify(
                    images / next(iter(expected)), labels
                )  # encodes the labels, which are cached afterwards
                for name, label in expected.items():
                    ranking, grpc_ms = classify(grpc, images / name, labels)
                    same, http_ms = classify(http, images / name, labels)
                    if ranking != same:
                        raise click.ClickException(f"{name}: gRPC and HTTP disagree: {ranking} and {same}")
                    table.add_row(name, format_ranking(ranking), f"{grpc_ms:.1f} ms", f"{http_ms:.1f} ms")
                    right += ranking[0]["label"] == label
            server.kill()  # at once: every call was answered
            console.print(table)
            console.print(f"{right} of {len(expected)} images are classified as expected. ", end="")
            console.print(f"Times: median of {REPEATS} calls.")
        console.print("Triton stopped")
    except LaunchError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
