"""Glyphs of many scripts and textures as one bank: few fonts a script, and no two classes that look alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpssl_fed.errors import UserError
from mpssl_fed.generators.glyphs import (
    GLYPH_SIZE,
    SUFFIXES,
    FontRecord,
    GlyphBank,
    draw_font,
    plausible,
    record_of,
    stretched,
)
from mpssl_fed.generators.scripts import TEXTURES, scripts, textures

FONTS_A_SCRIPT = 32
FEWEST_FONTS = 2
ALIKE = 0.8
"""Cosine of two classes' mean glyphs, stretched to one box, beyond which the later class is left out: one letter in two scripts."""


def load_scripts(folder: Path, progress: Callable[[int, int], None] | None = None) -> GlyphBank:
    """Render every script of :mod:`scripts` from the usable fonts below ``folder``, and the textures.

    A font serves a script of which it draws most letters; at most 32 a script, spread evenly over the files found. Left out
    are letters that fewer than two fonts draw and those that look like an earlier class. UserError for a folder in which no
    script has two fonts.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    letters = scripts()
    banks: dict[str, tuple[list[Path], np.ndarray, np.ndarray]] = {}
    for step, (name, wanted) in enumerate(letters.items()):
        if progress:
            progress(step, len(letters))
        found = _script(files, wanted)
        if found is not None:
            banks[name] = found
    if not banks:
        raise UserError(
            f"--fonts {folder}: {len(files)} font files found, and no script that two of them draw. On Debian, "
            "'python tools/unpack_fonts.py FOLDER --scripts' fetches the fonts that the shipped generator used."
        )
    return _without_look_alikes(_joined(folder, letters, banks))


def _script(files: list[Path], wanted: tuple[str, ...]) -> tuple[list[Path], np.ndarray, np.ndarray] | None:
    """Return (fonts, glyphs uint8 [fonts, letters, 48, 48], present) of one script, None where it has too few fonts."""
    kept, glyphs, present, seen = list[Path](), [], [], set()
    for path in files:
        drawn = draw_font(path, wanted)
        if drawn is None or drawn[1].sum() < 0.6 * len(wanted):
            continue
        digest = hashlib.sha256((drawn[0][:, ::4, ::4] >> 6).tobytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            kept.append(path)
            glyphs.append(drawn[0])
            present.append(drawn[1])
    if len(kept) < FEWEST_FONTS:
        return None
    bank = np.stack(glyphs), np.stack(present)
    usable = np.flatnonzero(plausible(*bank)) if len(kept) >= 5 else np.arange(len(kept))
    if len(usable) < FEWEST_FONTS:
        return None
    some = usable[np.unique(np.linspace(0, len(usable) - 1, min(FONTS_A_SCRIPT, len(usable))).round().astype(int))]
    return [kept[i] for i in some], bank[0][some], bank[1][some]


def _joined(
    folder: Path, letters: dict[str, tuple[str, ...]], banks: dict[str, tuple[list[Path], np.ndarray, np.ndarray]]
) -> GlyphBank:
    fonts = sorted({path for kept, _, _ in banks.values() for path in kept})
    place = {path: row for row, path in enumerate(fonts)}
    drawn = textures(GLYPH_SIZE)
    classes = tuple(letter for name in banks for letter in letters[name]) + TEXTURES
    glyphs = np.zeros((len(fonts) + len(drawn), len(classes), GLYPH_SIZE, GLYPH_SIZE), np.uint8)
    present = np.zeros(glyphs.shape[:2], bool)
    start = 0
    for name, (kept, some, there) in banks.items():
        rows = [place[path] for path in kept]
        glyphs[rows, start : start + len(letters[name])] = some
        present[rows, start : start + len(letters[name])] = there
        start += len(letters[name])
    glyphs[len(fonts) :, start:], present[len(fonts) :, start:] = drawn, True
    records = [record_of(path, folder) for path in fonts]
    records += [
        FontRecord(f"texture variation {n}", hashlib.sha256(one.tobytes()).hexdigest(), "mpssl-fed", ("Apache-2.0",))
        for n, one in enumerate(drawn)
    ]
    return GlyphBank(glyphs, present, tuple(records), classes)


def _without_look_alikes(bank: GlyphBank) -> GlyphBank:
    means = []
    for c in range(len(bank.classes)):
        there = bank.present[:, c]
        means.append(stretched(bank.glyphs[there, c]).mean(0) if there.sum() >= FEWEST_FONTS else np.zeros(144))
    flat = np.stack(means)
    norms = np.linalg.norm(flat, axis=1)
    flat /= np.maximum(norms, 1e-6)[:, None]
    kept: list[int] = []
    for c in range(len(flat)):
        if norms[c] and (not kept or (flat[kept] @ flat[c]).max() <= ALIKE):
            kept.append(c)
    used = bank.present[:, kept].any(1)
    return GlyphBank(
        np.ascontiguousarray(bank.glyphs[used][:, kept]),
        bank.present[used][:, kept],
        tuple(record for record, of_use in zip(bank.fonts, used, strict=True) if of_use),
        tuple(bank.classes[c] for c in kept),
    )
