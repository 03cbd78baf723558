"""Writes two of the demo's tasks as data for `evaluate.py`: `evaluate_demo.py digits|shapes FOLDER`.

The pictures are those that scripts/demo/evaluate.py measures: digits of scikit-learn's set that no training
saw, enlarged, and pairs of colour and shape that never occurred in it.
"""

from __future__ import annotations

from pathlib import Path

import click

from tritonclip_server.demo.drawing import draw_plain_digit
from tritonclip_server.demo.evaluation import SEED, Task, digit_task, pair_task
from tritonclip_server.demo.scenes import HELD_OUT

PER_PAIR = 50


def make_task(name: str) -> Task:
    """`digits` or `shapes`."""
    if name == "digits":
        return digit_task("held-out digits, enlarged", draw_plain_digit)
    return pair_task("held-out pairs", HELD_OUT, PER_PAIR, SEED + 2)


def write_folders(task: Task, folder: Path) -> int:
    """One folder a label, PNG files in it; gives their number. Labels without pictures have empty folders."""
    for label in task.labels:
        (folder / label).mkdir(parents=True, exist_ok=True)
    for number, (picture, truth) in enumerate(zip(task.pictures, task.truth, strict=True)):
        picture.save(folder / task.labels[truth] / f"{number:05d}.png")
    return len(task.pictures)


@click.command()
@click.argument("name", type=click.Choice(["digits", "shapes"]))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(name: str, folder: Path) -> None:
    """Write the pictures of NAME into FOLDER."""
    click.echo(f"{folder}: {write_folders(make_task(name), folder)} pictures")


if __name__ == "__main__":
    main()
