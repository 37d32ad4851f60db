"""An image folder that any method should learn: filled circles, squares and triangles, each in two colours that tell nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle")
SIDE = 48


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """Return an RGB image [SIDE, SIDE] of one shape, light on dark or dark on light, of any size and place."""
    tones = [rng.integers(0, 90, 3), rng.integers(165, 256, 3)]
    ground, shape = tones if rng.random() < 0.5 else reversed(tones)
    image = Image.new("RGB", (SIDE, SIDE), tuple(map(int, ground)))
    r = int(rng.integers(9, 18))
    x, y = (int(value) for value in rng.integers(r, SIDE - r, 2))
    fill, pen = tuple(map(int, shape)), ImageDraw.Draw(image)
    if kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif kind == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    else:
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    return image


def shapes_folder(root: Path, train: int = 60, test: int = 40) -> Path:
    """Write ``root/train/KIND/*.png`` and ``root/test/KIND/*.png``, so many of each kind, and return ``root``."""
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("test", test)):
        for kind in KINDS:
            (root / part / kind).mkdir(parents=True)
            for number in range(n):
                draw(kind, rng).save(root / part / kind / f"{number:03d}.png")
    return root
