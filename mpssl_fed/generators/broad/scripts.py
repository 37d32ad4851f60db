"""The classes of the broad generator: letters of many scripts and some textures, each script drawn by fonts of its own."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFilter

RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "digits": ((0x30, 0x39),),
    "latin": ((0x41, 0x5A), (0x61, 0x7A)),
    "greek": ((0x391, 0x3A9), (0x3B1, 0x3C9)),
    "cyrillic": ((0x410, 0x42F), (0x430, 0x44F)),
    "armenian": ((0x531, 0x556),),
    "georgian": ((0x10D0, 0x10F0),),
    "hebrew": ((0x5D0, 0x5EA),),
    "arabic": ((0x627, 0x63A), (0x641, 0x64A)),
    "devanagari": ((0x905, 0x90B), (0x90F, 0x910), (0x913, 0x928), (0x92A, 0x930), (0x932, 0x932), (0x935, 0x939)),
    "bengali": ((0x985, 0x98B), (0x98F, 0x990), (0x993, 0x9A8), (0x9AA, 0x9B0), (0x9B2, 0x9B2), (0x9B6, 0x9B9)),
    "gujarati": ((0xA95, 0xAA8), (0xAAA, 0xAB0)),
    "tamil": ((0xB85, 0xB8A), (0xB8E, 0xB90), (0xB92, 0xB95), (0xB99, 0xB9A), (0xB9E, 0xB9F), (0xBA3, 0xBA4), (0xBA8, 0xBAA),
              (0xBAE, 0xBB9)),
    "thai": ((0xE01, 0xE2E),),
    "ethiopic": ((0x1200, 0x1200), (0x1208, 0x1208), (0x1210, 0x1210), (0x1218, 0x1218), (0x1228, 0x1228), (0x1230, 0x1230),
                 (0x1240, 0x1240), (0x1260, 0x1260), (0x1270, 0x1270), (0x1290, 0x1290), (0x12A0, 0x12A0), (0x12A8, 0x12A8),
                 (0x12C8, 0x12C8), (0x12D0, 0x12D0), (0x12D8, 0x12D8), (0x12E8, 0x12E8), (0x12F0, 0x12F0), (0x1308, 0x1308),
                 (0x1320, 0x1320), (0x1338, 0x1338), (0x1348, 0x1348), (0x1350, 0x1350)),
    "cherokee": ((0x13A0, 0x13C8),),
    "tifinagh": ((0x2D30, 0x2D57),),
    "runic": ((0x16A0, 0x16BF),),
    "gothic": ((0x10330, 0x10346),),
    "coptic": ((0x2C80, 0x2C80), (0x2C82, 0x2C82), (0x2C86, 0x2C86), (0x2C8A, 0x2C8A), (0x2C9C, 0x2C9C), (0x2CA6, 0x2CA6)),
    "aramaic": ((0x10840, 0x10855),),
    "phoenician": ((0x10900, 0x10915),),
    "balinese": ((0x1B13, 0x1B33),),
    "tagalog": ((0x1700, 0x1711),),
    "khmer": ((0x1780, 0x17A2),),
    "katakana": ((0x30A2, 0x30F3),),
    "hangul": ((0x3131, 0x314E),),
}  # fmt: skip
"""Script -> ranges of code points, both ends included; small kana and what has no glyph of its own are left out."""

SMALL_KANA = "ァィゥェォッャュョヮガギグゲゴザジズゼゾダヂヅデドバパビピブプベペボポ"
TEXTURES = tuple(
    f"{kind}-{step}" for kind in ("stripes", "bars", "slants", "checks", "dots", "rings", "rays", "grain") for step in (1, 2, 3)
)
VARIATIONS = 24
"""Each texture is drawn so often, with another phase, width and contrast, as a script is by so many fonts."""


def scripts() -> dict[str, tuple[str, ...]]:
    """Return script -> its letters in the order of Unicode."""
    return {name: tuple(_letters(ranges)) for name, ranges in RANGES.items()}


def _letters(ranges: tuple[tuple[int, int], ...]) -> Iterator[str]:
    for first, last in ranges:
        for code in range(first, last + 1):
            letter = chr(code)
            if unicodedata.category(letter)[0] in "LN" and letter not in SMALL_KANA:
                yield letter


def textures(size: int, variations: range = range(VARIATIONS)) -> np.ndarray:
    """Return the textures as glyphs uint8 [variations, len(TEXTURES), size, size], ink 255; the same in every call."""
    drawn = np.zeros((len(variations), len(TEXTURES), size, size), np.uint8)
    for row, variation in enumerate(variations):
        for index, name in enumerate(TEXTURES):
            kind, step = name.split("-")
            drawn[row, index] = _texture(kind, int(step), size, np.random.default_rng([variation, index]))
    return drawn


def _texture(kind: str, step: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return one texture [size, size]: ink where a periodic field is positive, its period by ``step``."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    waves = (2.0, 3.5, 5.0)[step - 1] * rng.uniform(0.92, 1.08)
    phase, other = rng.uniform(-0.5, 0.5, 2)
    bias = rng.uniform(-0.35, 0.35)
    turn = 2 * np.pi * waves
    radius = np.hypot(x - 0.1 * phase, y - 0.1 * other)
    if kind == "grain":
        noise = Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8))
        soft = np.asarray(noise.filter(ImageFilter.GaussianBlur((4.0, 2.4, 1.5)[step - 1])), float)
        field = soft - np.quantile(soft, 0.5 + bias / 3)
        return np.where(field > 0, 255, 0).astype(np.uint8)
    field = {
        "stripes": np.sin(turn * y + phase),
        "bars": np.sin(turn * x + phase),
        "slants": np.sin(turn * (x + y) / 1.4 + phase),
        "checks": np.sin(turn * x + phase) * np.sin(turn * y + other),
        "dots": np.sin(turn * x + phase) + np.sin(turn * y + other) - 0.9,
        "rings": np.sin(2 * turn * radius + phase),
        "rays": np.sin(2 * round(2 * waves) * np.arctan2(y - 0.1 * other, x - 0.1 * phase) / 2),
    }[kind]
    return np.where(field > bias, 255, 0).astype(np.uint8)
