"""A labelled sheet of samples: one row a class, its name in the margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import write_atomic
from mpssl_fed.generators.base import Generator
from mpssl_fed.names import shown
from mpssl_fed.seeds import torch_rng

GAP, TEXT = 2, 13


@torch.no_grad()
def sample_grid(generator: Generator, per_class: int, seed: int, classes: Sequence[str] | None = None) -> Image.Image:
    """Return ``per_class`` samples of each class (all of them by default), one row a class; long sheets get columns.

    UserError for a class the generator does not have, or ``per_class`` below 1.
    """
    if per_class < 1:
        raise UserError(f"samples per class is {per_class}; it must be 1 or more.")
    if per_class > MOST_PER_CLASS:
        raise UserError(f"samples per class is {per_class}; a sheet holds at most {MOST_PER_CLASS}")
    chosen = list(classes) if classes else list(generator.classes)
    for name in chosen:
        if name not in generator.classes:
            raise UserError(f"generator '{generator.name}' has no class '{name}'.{nearest(name, generator.classes)}")
    font = _label_font()
    labels = [_label(name, font) for name in chosen]
    margin = GAP + max(int(font.getlength(label)) for label in labels) + 3 * GAP
    cell = generator.size + GAP
    width, height = margin + per_class * cell, max(cell, TEXT + 2 * GAP)
    columns = 1 if len(chosen) <= 12 else 3 if len(chosen) <= 100 else max(3, round(math.sqrt(len(chosen) * height / width)))
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    pen, rng = ImageDraw.Draw(sheet), torch_rng(seed, "grid")
    device = next(generator.parameters()).device
    for index, name in enumerate(chosen):
        label = torch.full((per_class,), generator.classes.index(name), device=device)
        images = generator(generator.sample_z(per_class, rng), F.one_hot(label, len(generator.classes)).float())
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        left, top = index // rows * width, index % rows * height + GAP
        pen.text((left + 2 * GAP, top + generator.size // 2), labels[index], fill="black", font=font, anchor="lm")
        for i, image in enumerate(pixels):
            sheet.paste(Image.fromarray(image), (left + margin + i * cell, top))
    return sheet


MOST_PER_CLASS = 1000
"""Images of a class on one sheet."""


def write_grid(
    generator: Generator, path: str | Path, per_class: int = 8, classes: Sequence[str] | None = None, seed: int = 0
) -> Path:
    """Write :func:`sample_grid` as a PNG file and return its path."""
    blob = BytesIO()
    sample_grid(generator, per_class, seed, classes).save(blob, format="PNG")
    return write_atomic(path, blob.getvalue())


def _label(name: str, font: ImageFont.FreeTypeFont) -> str:
    """Return ``name``, each character that ``font`` has no glyph for as its code point: "khmer U+1780"."""
    lacking = bytes(font.getmask("\uffff"))
    return "".join(c if c.isspace() or bytes(font.getmask(c)) != lacking else f"U+{ord(c):04X}" for c in shown(name))


def _label_font() -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    # DejaVu comes with matplotlib and draws Greek, Cyrillic and symbols, which PIL's own font does not.
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), TEXT)
