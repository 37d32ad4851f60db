"""Glyphs of many fonts as a small renderer with Gaussian nuisances: the teacher that the shipped generators learn from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from torch import Tensor

from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import sha256

CLASS_SETS: dict[str, str] = {
    "digits": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    # One case where both look alike, one script where two share a shape, and nothing of LIKE_DIGITS.
    "letters": "ACEFHJKLMNPQRTUVWXYadfhmnrtyΓΔΛΞΠΣΦΨΩβλμξπφψωДЖИЛЦШЩЪЫЮЯ&@#?+=*€£¥§",
}
LIKE_DIGITS = {  # left out of "letters": look_alike above 0.6, or the digit itself in fonts with a bare or open form
    "0": "OoDGeθΘΟοОое",
    "1": "IliІ",
    "2": "Zz",
    "3": "ЗзЭэ",
    "4": "Чч",
    "5": "Ss",
    "6": "bбδЄ",
    "8": "BßεБ",
    "9": "gqρ",
}
GLYPH_SIZE = 48  # side of a stored glyph; the drawn part fills BOX of it, as an MNIST digit fills 20 of 32
BOX = 30
IMAGE_SIZE = 32
NUISANCES = 11
SUFFIXES = (".ttf", ".otf", ".ttc", ".pfb")


@dataclass(frozen=True)
class FontRecord:
    """Where a font came from: file, SHA-256, Debian package and the licences it declares (empty when not known)."""

    file: str
    sha256: str
    package: str = ""
    licences: tuple[str, ...] = ()


@dataclass(frozen=True)
class GlyphBank:
    """glyphs uint8 [fonts, classes, 48, 48] (ink 255), present bool [fonts, classes], one record a font, class names."""

    glyphs: np.ndarray
    present: np.ndarray
    fonts: tuple[FontRecord, ...]
    classes: tuple[str, ...]


def class_set(name: str) -> tuple[str, ...]:
    """Return the classes of a named set, or the distinct characters of ``name`` itself when it starts with ``chars:``."""
    characters = name.removeprefix("chars:") if name.startswith("chars:") else CLASS_SETS.get(name)
    if characters is None:
        raise UserError(
            f"--classes '{name}' is no class set.{nearest(name, (*CLASS_SETS, 'scripts'))} Use {', '.join(CLASS_SETS)}, scripts, "
            "or chars:ABC to name the characters."
        )
    if len(set(characters)) != len(characters) or len(characters) < 2:
        raise UserError(f"--classes '{name}' needs at least two characters, each once.")
    return tuple(characters)


def load_glyphs(
    folder: Path,
    classes: tuple[str, ...],
    min_fonts: int = 100,
    max_fonts: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GlyphBank:
    """Render ``classes`` from every usable font below ``folder``.

    A font is usable when it draws at least half of the classes and most of what it draws looks like the other fonts'
    idea of the class (symbol fonts put arrows where letters belong). Copies of one font count once. UserError when
    fewer than ``min_fonts`` are left or when a class is drawn by none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    glyphs, present, kept, seen = [], [], [], set()
    for index, path in enumerate(files[:max_fonts]):
        if progress:
            progress(index, len(files))
        drawn = draw_font(path, classes)
        if drawn is None or drawn[1].sum() < len(classes) / 2:
            continue
        digest = hashlib.sha256((drawn[0][:, ::4, ::4] >> 6).tobytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            glyphs.append(drawn[0])
            present.append(drawn[1])
            kept.append(path)
    usable = plausible(np.stack(glyphs), np.stack(present)) if glyphs else np.zeros(0, bool)
    if usable.sum() < min_fonts:
        raise UserError(
            f"--fonts {folder}: {len(files)} font files found, {int(usable.sum())} usable for these {len(classes)} "
            f"classes, {min_fonts} needed. On Debian, 'python tools/unpack_fonts.py FOLDER' fetches the fonts that the "
            "shipped generators used; or lower --min-fonts."
        )
    bank = np.stack(glyphs)[usable], np.stack(present)[usable]
    lonely = [name for name, count in zip(classes, bank[1].sum(0), strict=True) if count == 0]
    if lonely:
        raise UserError(f"--fonts {folder}: no usable font draws {' '.join(lonely)}.")
    records = tuple(record_of(path, folder) for path, ok in zip(kept, usable, strict=True) if ok)
    return GlyphBank(*bank, records, classes)


def render(glyphs: Tensor, nuisance: Tensor) -> Tensor:
    """Render glyphs [n, 48, 48] in [0, 1] under N(0, 1) nuisances [n, 11] to images [n, 1, 32, 32] in [-1, 1].

    The nuisances are: rotation (.16 rad), shear (.25), log scales (.13, .10), shifts (.06 of the half width), stroke
    width, and four elastic waves of amplitude .05. Differentiable in both inputs.
    """
    angle, shear, wide, high, right, down, stroke, *waves = nuisance.unbind(1)
    cos, sin = torch.cos(0.16 * angle), torch.sin(0.16 * angle)
    across, along = torch.exp(-0.13 * wide), torch.exp(-0.10 * high)
    slant = 0.25 * shear
    # theta [n, 2, 3]: shear, then scale, of the rotated output grid
    theta = torch.stack(
        [
            torch.stack([across * (cos + slant * sin), across * (slant * cos - sin), 0.06 * right], 1),
            torch.stack([along * sin, along * cos, 0.06 * down], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [len(glyphs), 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    x, y = grid[..., 0], grid[..., 1]
    slow, fast = 1.6 * math.pi / 2, 2.2 * math.pi / 2
    a, b, c, d = (0.05 * wave.view(-1, 1, 1) for wave in waves)
    bent = torch.stack(
        [x + a * torch.sin(slow * y) + b * torch.sin(fast * y), y + c * torch.sin(slow * x) + d * torch.sin(fast * x)], 3
    )
    binomial = glyphs.new_tensor([1.0, 2.0, 1.0]) / 4
    soft = F.conv2d(glyphs.unsqueeze(1), (binomial[:, None] * binomial)[None, None], padding=1)
    ink = F.grid_sample(soft, bent, mode="bilinear", padding_mode="zeros", align_corners=False)
    threshold = 0.34 - 0.12 * stroke.view(-1, 1, 1, 1)
    # Rescaled so that paper is exactly -1 and full ink exactly 1 at every stroke width.
    low, top = torch.sigmoid(-9 * threshold), torch.sigmoid(9 * (1 - threshold))
    return 2 * (torch.sigmoid(9 * (ink - threshold)) - low) / (top - low) - 1


def draw_font(path: Path, classes: tuple[str, ...], least: float = 0.0) -> tuple[np.ndarray, np.ndarray] | None:
    """Return glyphs uint8 [classes, 48, 48] and which the font draws.

    None for a file FreeType cannot use, and as soon as it is clear that the font draws less than the share ``least``.
    """
    try:
        font = ImageFont.truetype(str(path), 96)
        tofu = {
            font.getmask(character, mode="L").size: bytes(font.getmask(character, mode="L"))
            for character in ("\uffff", "\U000ffffd")
        }
        glyphs = np.zeros((len(classes), GLYPH_SIZE, GLYPH_SIZE), np.uint8)
        present = np.zeros(len(classes), bool)
        for index, character in enumerate(classes):
            if present.sum() + len(classes) - index < least * len(classes):
                return None
            mask = font.getmask(character, mode="L")
            width, height = mask.size
            if min(width, height) == 0 or max(width, height) > 400 or tofu.get(mask.size) == bytes(mask):
                continue
            ink = Image.frombytes("L", mask.size, bytes(mask))
            box = ink.getbbox()
            if box is None:
                continue
            glyphs[index], present[index] = _centred(ink.crop(box)), True
    except (OSError, ValueError):  # a bitmap-only, broken or unsupported font file
        return None
    return (glyphs, present) if present.sum() >= least * len(classes) else None


def _centred(ink: Image.Image) -> np.ndarray:
    scale = BOX / max(ink.size)
    size = max(1, round(ink.width * scale)), max(1, round(ink.height * scale))
    canvas = Image.new("L", (GLYPH_SIZE, GLYPH_SIZE))
    canvas.paste(ink.resize(size, Image.Resampling.BOX), ((GLYPH_SIZE - size[0]) // 2, (GLYPH_SIZE - size[1]) // 2))
    return np.asarray(canvas)


def plausible(glyphs: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return which fonts [fonts] draw at least 70 % of their classes nearest (cosine) to that class' mean over fonts.

    Hairline fonts are left out too: at 32 pixels their strokes would be pale grey.
    """
    ink = glyphs.astype(np.float32) / 255
    smooth = np.mean([np.roll(ink, (i, j), (2, 3)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
    darkest = np.quantile(smooth.reshape(*glyphs.shape[:2], -1), 0.97, axis=2)
    bold = np.array([np.median(row[drawn]) >= 0.4 for row, drawn in zip(darkest, present, strict=True)])
    flat = glyphs[:, :, ::2, ::2].reshape(*glyphs.shape[:2], -1).astype(np.float32)
    flat = flat - flat.mean(2, keepdims=True)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True) + 1e-6
    means = (flat * present[..., None]).sum(0) / np.maximum(present.sum(0), 1)[:, None]
    means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-6
    nearest_class = np.einsum("fcd,kd->fck", flat, means).argmax(2)
    right = (nearest_class == np.arange(glyphs.shape[1])) & present
    return np.asarray(bold & (right.sum(1) >= 0.7 * present.sum(1)))


def record_of(path: Path, folder: Path) -> FontRecord:
    """Return what a manifest says of the font file ``path`` below ``folder``: its package and licences where they are known."""
    relative = path.relative_to(folder)
    index = folder / "packages.json"  # written by tools/unpack_fonts.py
    packages = json.loads(index.read_text()) if index.is_file() else {}
    package = relative.parts[0] if relative.parts[0] in packages else ""
    licences = tuple(packages[package]["licences"]) if package else ()
    return FontRecord(relative.name, sha256(path), package, licences)


def look_alike(bank: GlyphBank, others: GlyphBank) -> dict[str, tuple[str, float]]:
    """Return for each class of ``bank`` the class of ``others`` it most resembles and how much, in [-1, 1].

    The measure is the cosine of two glyphs stretched to the same box, the median over the fonts of both banks: 1 where
    they differ in width and height alone, as O and 0 may.
    """
    place = {font: index for index, font in enumerate(others.fonts)}
    shared = np.array([(i, place[font]) for i, font in enumerate(bank.fonts) if font in place])
    mine, theirs = (stretched(b.glyphs[shared[:, k]]) for k, b in enumerate((bank, others)))
    result = {}
    for c, name in enumerate(bank.classes):
        drawn = bank.present[shared[:, 0], c]
        scores = np.median((mine[drawn, c, None] * theirs[drawn]).sum(2), axis=0) if drawn.any() else np.zeros(1)
        result[name] = (others.classes[int(scores.argmax())], float(scores.max()))
    return result


def stretched(glyphs: np.ndarray) -> np.ndarray:
    """Return glyphs [..., 48, 48] cropped, stretched to 12 x 12, centred and of unit length: [..., 144]."""
    flat = np.zeros((int(np.prod(glyphs.shape[:-2])), 144))
    for row, glyph in zip(flat, glyphs.reshape(-1, GLYPH_SIZE, GLYPH_SIZE), strict=True):
        ink = Image.fromarray(glyph)
        box = ink.getbbox()
        if box is not None:
            row[:] = np.asarray(ink.crop(box).resize((12, 12), Image.Resampling.BOX), float).ravel()
    flat -= flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6
    return flat.reshape(*glyphs.shape[:-2], 144)
