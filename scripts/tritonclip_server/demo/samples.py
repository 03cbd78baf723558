"""Draw the sample pictures of the demo, in the formats and sizes that users' files have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from tritonclip_server.demo.drawing import draw, draw_plain_digit, sample_shade, shape_mask
from tritonclip_server.demo.scenes import DIGITS, Scene

SEED = 4
ROTATED = 6  # EXIF orientation: the stored picture is turned by 90 degrees to the left
CANDIDATES = [
    "a red circle",
    "a blue square",
    "a green heart",
    "a purple star",
    "a yellow arrow",
    "a white ring",
    "three orange triangles",
    "a black cross",
    "the digit 3",
    "the digit 7",
    "a pink crescent",
    "a brown diamond",
]
DIGIT_ROWS = {3: 908, 7: 963}  # legible digits of the test half
MIDDLE = (0.5, 0.5, 0.6)


def scene(label_colour: str, shape: str, background: str, *places: tuple[float, float, float]) -> Scene:
    """Create a scene with objects at the given places, or one object in the middle."""
    return Scene("shape", shape, label_colour, "large", background, places or (MIDDLE,))


def digit_scene(digit: int, colour: str, background: str) -> Scene:
    """Create a scene with a handwritten digit of the test half in the middle."""
    return Scene("digit", DIGITS[digit], colour, "large", background, ((0.5, 0.5, 0.85),), DIGIT_ROWS[digit])


def widen(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Paste a square picture into the middle of a larger one that continues its border colour."""
    wide = Image.new("RGB", size, picture.getpixel((0, 0)))
    wide.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return wide


def cut_out(colour: str, shape: str, side: int, rng: np.random.Generator) -> Image.Image:
    """Draw a shape on a transparent background whose hidden pixels are white, as an RGBA picture."""
    picture = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    pixels = side * 2 // 3
    mask = shape_mask(shape, pixels, 5.0)
    picture.paste((*sample_shade(rng, colour), 255), ((side - pixels) // 2, (side - pixels) // 2), mask)
    return picture


def write_samples(output: Path, seed: int) -> dict[str, str]:
    """Write the pictures; return the expected label of each file, one of `CANDIDATES`."""
    rng = np.random.default_rng(seed)
    labels = {}

    def save(name: str, label: str, picture: Image.Image, **options: Any) -> None:
        picture.save(output / name, **options)
        labels[name] = label

    three = ((0.3, 0.3, 0.27), (0.72, 0.4, 0.27), (0.42, 0.74, 0.27))
    jpeg = {"quality": 85}
    save(
        "red_circle.jpg",
        "a red circle",
        widen(draw(scene("red", "circle", "white"), rng, 480), (640, 480)),
        **jpeg,
    )
    save("blue_square.webp", "a blue square", draw(scene("blue", "square", "yellow"), rng, 300), quality=80)
    save("purple_star.png", "a purple star", cut_out("purple", "star", 256, rng))
    save("yellow_arrow.png", "a yellow arrow", draw(scene("yellow", "arrow", "blue"), rng, 320, False))
    green = widen(draw(scene("green", "heart", "white"), rng, 450, False), (450, 600))
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    save(
        "green_heart_rotated.jpg",
        "a green heart",
        green.transpose(Image.Transpose.ROTATE_90),
        exif=exif,
        **jpeg,
    )
    grey = draw(scene("white", "ring", "black"), rng, 224).convert("L")
    save("white_ring_grey.png", "a white ring", grey)
    orange = widen(draw(scene("orange", "triangle", "black", *three), rng, 400), (500, 400))
    save("three_orange_triangles.jpg", "three orange triangles", orange, **jpeg)
    save("digit_3.png", "the digit 3", draw_plain_digit(DIGIT_ROWS[3], 128).convert("L"))
    save("digit_7.jpg", "the digit 7", draw(digit_scene(7, "black", "white"), rng, 280), **jpeg)
    return labels


@click.command()
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write."
)
@click.option("--seed", default=SEED, show_default=True, help="Seed of the random generator.")
def main(output: Path, seed: int) -> None:
    """Draw the sample pictures, and write them and labels.json to --output."""
    output.mkdir(parents=True, exist_ok=True)
    samples = {"candidate_labels": CANDIDATES, "expected": write_samples(output, seed)}
    (output / "labels.json").write_text(json.dumps(samples, indent=2) + "\n", encoding="utf-8")
    click.echo(f"wrote {len(samples['expected'])} pictures to {output}")


if __name__ == "__main__":
    main()
