"""Glyphs of many scripts and textures as banks: few fonts a script, no two classes that look alike, and fonts kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpssl_fed.errors import UserError
from mpssl_fed.generators.broad.scripts import TEXTURES, VARIATIONS, scripts, textures
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

FONTS_A_SCRIPT, UNSEEN_A_SCRIPT = 32, 16
FEWEST_FONTS = 2
DRAWN = 0.6
"""A font serves a script of which it draws this share of the letters."""
ALIKE = 0.8
"""Cosine of two classes' mean glyphs, stretched to one box, beyond which the later class is left out: one letter in two scripts."""


@dataclass(frozen=True)
class ScriptBanks:
    """What a generator is taught, and fonts and textures that it never sees.

    ``shared`` names the classes that no other font draws: there ``unseen`` holds the glyphs of ``taught`` once more, so that its
    renders differ in the nuisances alone. Both banks have the same classes, "greek α" or "texture dots-2".
    """

    taught: GlyphBank
    unseen: GlyphBank
    shared: tuple[str, ...]


@dataclass(frozen=True)
class _Drawn:
    """Some fonts of one script: glyphs uint8 [fonts, letters, 48, 48], present bool [fonts, letters]."""

    fonts: list[Path]
    glyphs: np.ndarray
    present: np.ndarray

    def part(self, rows: np.ndarray) -> _Drawn:
        return _Drawn([self.fonts[row] for row in rows], self.glyphs[rows], self.present[rows])


def script_of(name: str) -> str:
    """Return the script of a class name: "greek" of "greek α"."""
    return name.partition(" ")[0]


def load_scripts(
    folder: Path, progress: Callable[[int, int], None] | None = None, letters: Mapping[str, tuple[str, ...]] | None = None
) -> ScriptBanks:
    """Render every script of ``letters`` (:func:`scripts.scripts` by default) from the usable fonts below ``folder``, and textures.

    A font serves a script of which it draws most letters; at most 32 a script are taught, spread evenly over the files found, and
    at most 16 of the others kept unseen. Left out are letters that fewer than two fonts draw and those that look like an earlier
    class. UserError for a folder in which no script has two fonts.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    letters = scripts() if letters is None else letters
    taught, unseen = dict[str, _Drawn](), dict[str, _Drawn]()
    for step, (name, wanted) in enumerate(letters.items()):
        if progress:
            progress(step, len(letters))
        usable = _usable(files, wanted)
        if usable is not None:
            some = _evenly(np.arange(len(usable.fonts)), FONTS_A_SCRIPT)
            others = _evenly(np.setdiff1d(np.arange(len(usable.fonts)), some), UNSEEN_A_SCRIPT)
            taught[name], unseen[name] = usable.part(some), usable.part(others)
    if not taught:
        raise UserError(
            f"--fonts {folder}: {len(files)} font files found, and no script that two of them draw. On Debian, "
            "'python tools/unpack_fonts.py FOLDER --scripts' fetches the fonts that the shipped generator used."
        )
    bank = _joined(folder, letters, taught, range(VARIATIONS))
    kept = _no_look_alikes(bank)
    apart = _joined(folder, letters, unseen, range(VARIATIONS, VARIATIONS + UNSEEN_A_SCRIPT))
    return _filled(_with_classes(bank, kept), _with_classes(apart, kept))


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    chosen: np.ndarray = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
    return chosen


def _usable(files: list[Path], wanted: tuple[str, ...]) -> _Drawn | None:
    """Return every usable font of one script, None where it has too few."""
    kept, glyphs, present, seen = list[Path](), [], [], set()
    for path in files:
        drawn = draw_font(path, wanted, DRAWN)
        if drawn is None:
            continue
        digest = hashlib.sha256((drawn[0][:, ::4, ::4] >> 6).tobytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            kept.append(path)
            glyphs.append(drawn[0])
            present.append(drawn[1])
    if len(kept) < FEWEST_FONTS:
        return None
    found = _Drawn(kept, np.stack(glyphs), np.stack(present))
    # Fewer than five fonts are no majority that could call one of them odd.
    usable = found.part(np.flatnonzero(plausible(found.glyphs, found.present))) if len(kept) >= 5 else found
    return usable if len(usable.fonts) >= FEWEST_FONTS else None


def _joined(folder: Path, letters: Mapping[str, tuple[str, ...]], drawn: dict[str, _Drawn], variations: range) -> GlyphBank:
    fonts = sorted({path for one in drawn.values() for path in one.fonts})
    place = {path: row for row, path in enumerate(fonts)}
    patterns = textures(GLYPH_SIZE, variations)
    classes = tuple(f"{name} {letter}" for name in drawn for letter in letters[name]) + tuple(f"texture {x}" for x in TEXTURES)
    glyphs = np.zeros((len(fonts) + len(patterns), len(classes), GLYPH_SIZE, GLYPH_SIZE), np.uint8)
    present = np.zeros(glyphs.shape[:2], bool)
    start = 0
    for name, one in drawn.items():
        rows, columns = [place[path] for path in one.fonts], slice(start, start + len(letters[name]))
        glyphs[rows, columns], present[rows, columns] = one.glyphs, one.present
        start = columns.stop
    glyphs[len(fonts) :, start:], present[len(fonts) :, start:] = patterns, True
    records = [record_of(path, folder) for path in fonts]
    records += [
        FontRecord(f"texture variation {n}", hashlib.sha256(one.tobytes()).hexdigest(), "mpssl-fed", ("Apache-2.0",))
        for n, one in zip(variations, patterns, strict=True)
    ]
    return GlyphBank(glyphs, present, tuple(records), classes)


def _no_look_alikes(bank: GlyphBank) -> list[int]:
    """Return the classes that two fonts draw and that look like none before them."""
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
    return kept


def _with_classes(bank: GlyphBank, kept: list[int]) -> GlyphBank:
    """Return the bank of some classes, without the fonts that draw none of them."""
    used = np.flatnonzero(bank.present[:, kept].any(1))
    rows = np.ix_(used, np.asarray(kept))
    return GlyphBank(
        bank.glyphs[rows], bank.present[rows], tuple(bank.fonts[i] for i in used), tuple(bank.classes[c] for c in kept)
    )


def keep_classes(banks: ScriptBanks, kept: list[int]) -> ScriptBanks:
    """Return the banks of the classes with these numbers alone."""
    taught, unseen = _with_classes(banks.taught, kept), _with_classes(banks.unseen, kept)
    return ScriptBanks(taught, unseen, tuple(name for name in banks.shared if name in taught.classes))


def _filled(taught: GlyphBank, unseen: GlyphBank) -> ScriptBanks:
    lonely = ~unseen.present.any(0)
    rows = np.flatnonzero(taught.present[:, lonely].any(1))
    present = taught.present[rows] & lonely
    glyphs = taught.glyphs[rows] * present[..., None, None].astype(np.uint8)
    both = replace(
        unseen,
        glyphs=np.concatenate([unseen.glyphs, glyphs]),
        present=np.concatenate([unseen.present, present]),
        fonts=unseen.fonts + tuple(taught.fonts[row] for row in rows),
    )
    return ScriptBanks(taught, both, tuple(taught.classes[c] for c in np.flatnonzero(lonely)))
