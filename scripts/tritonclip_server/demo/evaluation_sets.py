"""The demo's digits and held-out shapes as folders of labelled images for `tritonclip-server evaluate`.

The pictures are those of `demo.evaluation`: enlarged digits that training never saw, and pairs of colour and
shape that never occurred in training.
"""

from __future__ import annotations

from pathlib import Path

import click

from tritonclip_server.demo.drawing import draw_plain_digit
from tritonclip_server.demo.evaluation import SEED, Task, digit_task, pair_task
from tritonclip_server.demo.scenes import HELD_OUT

PICTURES_PER_PAIR = 50


def make_task(name: str) -> Task:
    """Draw the pictures of the set `digits` or `shapes`."""
    if name == "digits":
        return digit_task("held-out digits, enlarged", draw_plain_digit)
    return pair_task("held-out pairs", HELD_OUT, PICTURES_PER_PAIR, SEED + 2)


def write_folders(task: Task, folder: Path) -> int:
    """Write PNG files into one folder per label, and return their number. Empty classes get a folder too."""
    for label in task.labels:
        (folder / label).mkdir(parents=True, exist_ok=True)
    for number, (picture, truth) in enumerate(zip(task.pictures, task.truth, strict=True)):
        picture.save(folder / task.labels[truth] / f"{number:05d}.png")
    return len(task.pictures)


@click.command()
@click.argument("name", type=click.Choice(["digits", "shapes"]))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(name: str, folder: Path) -> None:
    """Write a set of labelled pictures into FOLDER, with one subfolder per label."""
    click.echo(f"{folder}: {write_folders(make_task(name), folder)} pictures")


if __name__ == "__main__":
    main()
