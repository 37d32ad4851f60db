"""A labelled sheet of samples: one row a class, its name in the margin."""

from __future__ import annotations

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
    chosen = list(classes) if classes else list(generator.classes)
    for name in chosen:
        if name not in generator.classes:
            raise UserError(f"generator '{generator.name}' has no class '{name}'.{nearest(name, generator.classes)}")
    font = _label_font()
    margin = GAP + max(int(font.getlength(shown(name))) for name in chosen) + 3 * GAP
    cell, columns = generator.size + GAP, 1 if len(chosen) <= 12 else 3
    rows = -(-len(chosen) // columns)
    width = margin + per_class * cell
    sheet = Image.new("RGB", (columns * width + GAP, rows * max(cell, TEXT + 2 * GAP) + GAP), "white")
    pen, rng = ImageDraw.Draw(sheet), torch_rng(seed, "grid")
    device = next(generator.parameters()).device
    for index, name in enumerate(chosen):
        label = torch.full((per_class,), generator.classes.index(name), device=device)
        images = generator(generator.sample_z(per_class, rng), F.one_hot(label, len(generator.classes)).float())
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        left, top = index // rows * width, index % rows * max(cell, TEXT + 2 * GAP) + GAP
        pen.text((left + 2 * GAP, top + generator.size // 2), shown(name), fill="black", font=font, anchor="lm")
        for i, image in enumerate(pixels):
            sheet.paste(Image.fromarray(image), (left + margin + i * cell, top))
    return sheet


def write_grid(
    generator: Generator, path: str | Path, per_class: int = 8, classes: Sequence[str] | None = None, seed: int = 0
) -> Path:
    """Write :func:`sample_grid` as a PNG file and return its path."""
    blob = BytesIO()
    sample_grid(generator, per_class, seed, classes).save(blob, format="PNG")
    return write_atomic(path, blob.getvalue())


def _label_font() -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    # DejaVu comes with matplotlib and draws Greek, Cyrillic and symbols, which PIL's own font does not.
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), TEXT)
