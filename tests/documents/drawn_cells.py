"""Images that stand for stained blood cells: three classes told by colour and size, a few of each on a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CELLS = {"platelets": ((150, 90, 170), 4), "rbc": ((200, 120, 120), 9), "wbc": ((90, 50, 140), 12)}
"""Class -> mean colour, mean radius in pixels."""
SIDE = 32


def draw(kind: str, stain: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return an RGB image [SIDE, SIDE] of one cell, about in the middle. stain [3]: what the slide adds to every colour."""
    colour, radius = CELLS[kind]
    ground, cell = (tuple(map(int, np.clip(tone + stain + rng.normal(0, 8, 3), 0, 255))) for tone in ((230, 215, 215), colour))
    image, r = Image.new("RGB", (SIDE, SIDE), ground), radius + int(rng.integers(-2, 3))
    x, y = (SIDE // 2 + int(value) for value in rng.integers(-3, 4, 2))
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=cell)
    return image


def cells_folder(root: Path, slides: int = 290, held_out: int = 40) -> Path:
    """Write ``root/train/CLASS/SLIDE/0.png``, a cell of each class a slide, ``root/test`` alike, and return ``root``."""
    rng = np.random.default_rng(0)
    for slide in range(slides + held_out):
        stain = rng.normal(0, 12, 3)
        for kind in CELLS:
            folder = root / ("train" if slide < slides else "test") / kind / f"{slide:05d}"
            folder.mkdir(parents=True)
            draw(kind, stain, rng).save(folder / "0.png")
    return root
