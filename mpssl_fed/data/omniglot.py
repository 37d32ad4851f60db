"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015, MIT): an alphabet is a task, its characters are classes, its drawers subjects.

Each character was drawn once by each of the same 20 people, who are numbered. Drawers 1 to 12 are trained on, 13 to 20 tested on,
so that no hand is on both sides, whatever the seed. A file is 105 x 105 pixels of two values, black strokes of 5 pixels on white.
What becomes of it follows from that type alone, nothing from the image at hand: ink is 255 on 0, as the glyph generators draw;
strokes grow by one pixel on each side, since at 32 pixels they would be thinner and paler than any printed glyph; then the image is
resized with antialiasing. At 32 pixels ink then covers 12 % and its brightest fiftieth is 253; with glyphs-letters 14 % and 239.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mpssl_fed import environment
from mpssl_fed.data.base import DATASETS, Dataset, Images
from mpssl_fed.data.fetch import ARCHIVES, Archive, fetch_dataset
from mpssl_fed.data.mnist import resize
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError, nearest

SIDE, DRAWERS, LAST_TRAINED = 105, 20, 12
LARGEST_FILE = 1 << 16  # bytes of a drawing; the published ones have some 250
FOLDERS = ("images_background", "images_evaluation", "images_background_small1", "images_background_small2")
"""Archives without .zip, or folders they were unpacked to, in the order in which an alphabet is looked for."""
PLACES = (".", "omniglot", "omniglot-py")
"""Where below ``root`` they may lie; the last is torchvision's."""

LETTERS = {
    "Latin": tuple(f"latin {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
    "Greek": tuple(f"greek {letter}" for letter in "αβγδεζηθικλμνξοπρστυφχψω"),
    "Japanese_(katakana)": tuple(
        f"katakana {letter}"
        for letter in "アイウエオカキクコサシスセソタチツテトナニヌネノ" + "ハヒフヘホマミムメモヤユヨラリルレロワヰヱヲン"
    ),
}
"""Alphabet -> what its numbered characters are, which the set itself does not say: by sight of the drawings, in alphabetical order;
there is no katakana ke. Script and letter, as the classes of ``glyphs-broad``, so that they are matched by name."""

Drawing = tuple[int, int, str]  # character, drawer, name inside the source


@dataclass(frozen=True)
class Source:
    """An archive, or the folder it was unpacked to: alphabet -> its drawings, sorted."""

    path: Path
    alphabets: dict[str, list[Drawing]]


@DATASETS.add("omniglot")
def omniglot(root: Path | None = None, size: int | None = None, download: bool = False, variant: str | None = None) -> Dataset:
    """Return the alphabet ``variant`` (``Sanskrit``, ``Japanese_(katakana)`` or ``katakana``, in any case): 12 + 8 images a class.

    ``root`` (default: the cache) holds the published archives or what they were unpacked to. Default size 32. Classes are named
    by the alphabet and the character's number, those of :data:`LETTERS` by their letters.
    """
    root = root or environment.cache_folder() / "omniglot"
    found = find(root, variant) if variant else None
    if found is None and download and variant:
        fetch_dataset("omniglot", root)
        found = find(root, variant)
    if found is None:
        raise UserError(_not_found(root, variant))
    source, alphabet = found
    drawings = _whole(source, alphabet)
    contents = list(_contents(source.path, [name for _, _, name in drawings]))
    pixels = [_ink(content, f"{source.path}, {name}") for content, (_, _, name) in zip(contents, drawings, strict=True)]
    characters = sorted({character for character, _, _ in drawings})
    images = Images(
        drawn(torch.stack(pixels)[:, None], size or 32),
        torch.tensor([characters.index(character) for character, _, _ in drawings], dtype=torch.int64),
        tuple(f"{alphabet} {drawer:02d}" for _, drawer, _ in drawings),
        tuple(hashlib.sha256(content).hexdigest() for content in contents),
    )
    trained = np.array([drawer <= LAST_TRAINED for _, drawer, _ in drawings])
    train, test = (images.take(np.flatnonzero(side)) for side in (trained, ~trained))
    note = f"drawers 1 to {LAST_TRAINED} of {DRAWERS} are trained on, the others are tested on"
    how = Preparation(ink=True)
    return Dataset(f"omniglot/{alphabet}", names_of(alphabet, characters), train, test, flip=False, note=note, preparation=how)


def find(root: Path, variant: str) -> tuple[Source, str] | None:
    """Return the source below ``root`` that holds the alphabet ``variant``, and its full name; None where none does."""
    for source in sources(root):
        for alphabet in source.alphabets:
            if _plain(variant) in {_plain(alias) for alias in _aliases(alphabet)}:
                return source, alphabet
    return None


def sources(root: Path) -> Iterator[Source]:
    """Yield what of the set lies below ``root``. UserError for an archive that is none."""
    for place in PLACES:
        for name in FOLDERS:
            folder = root / place / name
            archive = folder.with_name(f"{name}.zip")
            if folder.is_dir():
                inside = [str(path.relative_to(folder)) for path in folder.glob("*/*/*.png")]
                yield Source(folder, _alphabets(inside))
            elif archive.is_file():
                with _opened(archive) as file:
                    yield Source(archive, _alphabets([n for n in file.namelist() if n.startswith(f"{name}/")]))


def names_of(alphabet: str, characters: list[int]) -> tuple[str, ...]:
    """Return the class names of the numbered characters of an alphabet: letters where they are known, else its name and number."""
    letters = LETTERS.get(alphabet, ())
    if characters == list(range(1, len(letters) + 1)):
        return letters
    short = next(iter(_aliases(alphabet)[1:]), alphabet).replace("_", " ")
    return tuple(f"{short} {character:02d}" for character in characters)


def drawn(ink: Tensor, size: int) -> Tensor:
    """Return drawings uint8 [n, 1, 105, 105], ink 255 on 0, as [n, 1, size, size] with strokes one pixel wider on each side."""
    grown = torch.cat([F.max_pool2d(part.float(), 3, 1, 1).to(torch.uint8) for part in torch.split(ink, 1024)])
    return resize(grown, size)


def _aliases(alphabet: str) -> list[str]:
    """Return the full name and, for NAME_(KIND), the part that tells it apart: KIND of the two Japanese ones, else NAME."""
    match = re.fullmatch(r"(.+)_\((.+)\)", alphabet)
    return [alphabet] if match is None else [alphabet, match[2] if match[1] == "Japanese" else match[1]]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def _alphabets(names: list[str]) -> dict[str, list[Drawing]]:
    """Sort names that end in ALPHABET/characterNN/NUMBER_DRAWER.png; others are none of the set's."""
    found: dict[str, list[Drawing]] = {}
    for name in names:
        match = re.search(r"(?:^|/)([^/]+)/character(\d+)/\d+_(\d+)\.png$", name)
        if match:
            found.setdefault(match[1], []).append((int(match[2]), int(match[3]), name))
    return {alphabet: sorted(found[alphabet]) for alphabet in sorted(found)}


def _whole(source: Source, alphabet: str) -> list[Drawing]:
    """Return the alphabet's drawings; UserError unless each character is there once by each drawer."""
    drawings = source.alphabets[alphabet]
    for character in sorted({character for character, _, _ in drawings}):
        drawers = [drawer for number, drawer, _ in drawings if number == character]
        if drawers != list(range(1, DRAWERS + 1)):
            raise UserError(
                f"data set 'omniglot': {source.path} has {len(drawers)} drawings of {alphabet}/character{character:02d}, not one "
                f"by each of {DRAWERS} drawers; remove it and fetch it again"
            )
    return drawings


def _contents(path: Path, names: list[str]) -> Iterator[bytes]:
    """Yield the bytes of each drawing in an archive or folder."""
    if path.is_dir():
        for name in names:
            try:
                yield (path / name).read_bytes()
            except OSError as error:
                raise UserError(f"image file {path / name} cannot be read ({error.strerror}); replace it") from error
        return
    with _opened(path) as file:
        for name in names:
            if file.getinfo(name).file_size > LARGEST_FILE:
                raise UserError(f"{path}: {name} has more than {LARGEST_FILE} bytes; it is no drawing of Omniglot")
            yield file.read(name)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise UserError(f"data set 'omniglot': cannot read the archive {path} ({error}); remove it and fetch it again") from error


def _ink(content: bytes, where: str) -> Tensor:
    """Return a drawing as uint8 [105, 105], ink 255; UserError for what is none."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as file:
            if file.size != (SIDE, SIDE):
                raise UserError(f"{where} has {file.width} x {file.height} pixels; a drawing of Omniglot has {SIDE} x {SIDE}")
            return torch.from_numpy(255 - np.array(file.convert("L")))
    except UnidentifiedImageError as error:
        raise UserError(f"{where} cannot be decoded (no PNG); fetch it again") from error
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise UserError(f"{where} cannot be decoded ({error}); fetch it again") from error


def _not_found(root: Path, variant: str | None) -> str:
    here = sorted({alphabet for source in sources(root) for alphabet in source.alphabets}) if root.is_dir() else []
    if not here:
        return (
            f"data set 'omniglot': none of {', '.join(f'{name}.zip' for name in FOLDERS)} in {root}, packed or unpacked. "
            f"'mpssl-fed fetch omniglot' gets the first two into ./data and 'mpssl-fed fetch omniglot-small' the others; name the "
            "folder by data.root, or set data.download=true"
        )
    if not variant:
        return f"data set 'omniglot': name an alphabet, data.name=omniglot/ALPHABET. In {root}: {', '.join(here)}"
    aliases = [alias for alphabet in here for alias in _aliases(alphabet)]
    return (
        f"data set 'omniglot': no alphabet '{variant}' in {root}.{nearest(variant, aliases)} There: {', '.join(here)}. "
        "'mpssl-fed fetch omniglot' gets all fifty"
    )


DATA_NAMES = dict.fromkeys(("omniglot", "omniglot-small"), "omniglot/ALPHABET")
"""What ``data.name`` is for each name that ``fetch`` takes here."""


SHA256 = {
    "images_background": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_evaluation": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    "images_background_small1": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    "images_background_small2": "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
}
"""Of the published archives, as tensorflow-datasets (url_checksums/omniglot.txt) has them."""


def _archives(*names: str) -> list[Archive]:
    from torchvision.datasets import Omniglot

    return [Archive(f"{Omniglot.download_url_prefix}/{name}.zip", folder="omniglot-py", sha256=SHA256[name]) for name in names]


ARCHIVES.add("omniglot")(lambda: _archives(*FOLDERS[:2]))
ARCHIVES.add("omniglot-small")(lambda: _archives(*FOLDERS[2:]))
