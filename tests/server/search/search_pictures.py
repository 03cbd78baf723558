"""Folders of drawn pictures whose file names describe their content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tritonclip_server.demo.drawing import draw
from tritonclip_server.demo.scenes import PAIRS, Scene, backgrounds_for

SIDE = 96


def picture(number: int, seed: int = 0) -> tuple[str, Image.Image]:
    """Draw a picture; return its description and the image. The same arguments give the same picture."""
    rng = np.random.default_rng([seed, number])
    colour, shape = PAIRS[number % len(PAIRS)]
    background = str(rng.choice(backgrounds_for(colour)))
    x, y = rng.uniform(0.4, 0.6, 2)
    position = (float(x), float(y), float(rng.uniform(0.45, 0.7)))
    scene = Scene("shape", shape, colour, "large", background, (position,))
    return f"{colour} {shape}", draw(scene, rng, SIDE)


def draw_folder(directory: Path, count: int, seed: int = 0, step: int = 1) -> list[Path]:
    """Write `count` pictures in folders of 100, of every `step`-th pair of colour and shape."""
    paths = []
    for number in range(0, count * step, step):
        shown, image = picture(number, seed)
        path = directory / f"{number // 100:02}" / f"{number:04} {shown}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=92)
        paths.append(path)
    return paths
