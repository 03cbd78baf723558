"""Measures what a CLIP checkpoint knows of the demo's world, by zero-shot classification.

python scripts/demo/evaluate.py scripts/demo/checkpoint
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import torch

from tritonclip_server.demo.evaluation import SEED, evaluate


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--per-pair", default=50, show_default=True, help="Pictures of every held-out pair.")
@click.option("--seed", default=SEED, show_default=True)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the results here.",
)
def main(checkpoint: Path, per_pair: int, seed: int, json_file: Path | None) -> None:
    """Print the zero-shot top-1 accuracy of CHECKPOINT on pictures that it never saw."""
    torch.set_num_threads(2)
    results = evaluate(checkpoint, per_pair, seed)
    click.echo(f"{'task':<28}{'template':<36}{'labels':>7}{'pictures':>10}{'top-1':>9}")
    for r in results:
        click.echo(f"{r.task:<28}{r.template:<36}{r.labels:>7}{r.pictures:>10}{r.accuracy:>9.1%}")
    if json_file:
        report = {"checkpoint": checkpoint.name, "seed": seed, "results": [asdict(r) for r in results]}
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
