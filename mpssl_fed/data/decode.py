"""Image files into uint8 tensors: upright, square, grey or colour. Training, sites and ``predict`` read through here alone.

The rules are stated in docs/own-data.md. Values are scaled by the type that a file declares, never by what its pixels happen to
be; a file that does not say enough is refused with the way to say it.
"""

from __future__ import annotations

import hashlib
import io
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError
from torch import Tensor

from mpssl_fed.data.eight_bits import NotReadError, check_frame, eight_bits
from mpssl_fed.data.formats import dicom
from mpssl_fed.data.formats.pixel_cache import pixel_cache
from mpssl_fed.data.preparation import LUMA, Preparation, said
from mpssl_fed.errors import UserError
from mpssl_fed.names import printable, shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", *dicom.SUFFIXES)
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Of Pillow's decoders those of plain pixels (JPEG with a phone's MPO): others start programs, as EPS does."""

MOST_BYTES = 1 << 30
"""Of a file, all of which is held while it is decoded; MOST_PIXELS of 16-bit RGBA, not compressed, are fewer."""

MOST_PIXELS = 89_478_485
"""Pillow's own limit, where it begins to warn of a decompression bomb: 9,459 x 9,459."""


def read_image(path: Path, size: int, prepared: Preparation | None = None, content: bytes | None = None) -> Tensor:
    """Return one file as uint8 [C, size, size], C 1 if every pixel is grey, else 3.

    The image is turned upright by its EXIF orientation; then, by default, the central square is resized, which equals resizing the
    short side and cropping the centre. The other ways: :class:`Preparation`. Transparency lies on white; wide types are scaled to 8
    bits as :func:`eight_bits` says. content: the file's bytes, where they were read already. Raises UserError naming a file that
    is missing, no regular file, broken, too large, animated, or that does not say how it is to be scaled.
    """
    how = prepared or Preparation()
    image = _decode(path, size, how, content)
    if how.ink:
        image = ImageOps.invert(image.convert("L")).filter(ImageFilter.MaxFilter(3))
    if how.fit == "crop":
        side = how.central * min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    elif how.fit == "squash":
        square = image.resize((size, size), Image.Resampling.BILINEAR)
    else:
        square = _padded(image, size)
    pixels = np.array(square)
    x = torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
    return x[:1] if len(x) == 3 and bool((x == x[:1]).all()) else x


def read_images(
    paths: Sequence[Path],
    size: int,
    channels: int | None = None,
    prepared: Preparation | None = None,
    title: str = "reading images",
) -> Tensor:
    """Return the files as uint8 [n, C, size, size]: C ``channels``, or by default 1 if all of them are grey, else 3.

    Colour turns to grey by ITU-R 601 luma. ``prepared``: how files become squares, by default the central crop. Progress shows
    on a terminal when there is much to decode.
    """
    return read_with_digests(paths, size, channels, prepared, title)[0]


def read_with_digests(
    paths: Sequence[Path],
    size: int,
    channels: int | None = None,
    prepared: Preparation | None = None,
    title: str = "reading images",
) -> tuple[Tensor, tuple[str, ...]]:
    """Return what :func:`read_images` does, and the SHA-256 (hex) of each file's bytes: the very ones that were decoded.

    Of many files, those that were decoded before come from a cache of this user's (:mod:`mpssl_fed.data.formats.pixel_cache`).
    """
    digests: list[str] = []
    kept = pixel_cache(len(paths), f"{size} {(prepared or Preparation()).to_json()}")
    out = torch.empty(len(paths), channels or 3, size, size, dtype=torch.uint8)
    all_grey = True
    for row, path in zip(out, _progress(paths, title), strict=True):
        content = _bytes(path)
        digests.append(hashlib.sha256(content).hexdigest())
        image = None if kept is None else kept.get(digests[-1], size)
        if image is None:
            image = read_image(path, size, prepared, content)
            if kept is not None:
                kept.add(digests[-1], image)
        all_grey = all_grey and len(image) == 1
        row.copy_(_grey(image) if channels == 1 and len(image) == 3 else image)
    if kept is not None:
        kept.save()
    return (out[:, :1].clone() if channels is None and all_grey else out), tuple(digests)


def has_side(path: Path, side: int) -> bool:
    """Return whether a file holds just ``side`` x ``side`` pixels, which its header says. Raises UserError as read_image does."""
    if _is_dicom(path):
        with _named(path):
            return dicom.dicom_shape(_bytes(path), MOST_PIXELS) == (side, side)
    with _opened(path) as file:
        return file.size == (side, side)


def is_image(path: Path) -> bool:
    """Return whether a regular file is an image, broken or not, by its suffix; where that says nothing, by how it begins."""
    if path.suffix.lower() in {*SUFFIXES, *Image.registered_extensions()}:
        return True
    try:
        with _opened(path):
            return True
    except UserError:
        return _is_dicom(path)


def check_regular(path: Path, what: str = "image file") -> None:
    """Raise UserError unless ``path`` is a regular file or a link to one; a FIFO, socket or device is never opened."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        dead = f"is a link to {shown(path.readlink())}, which does not exist" if path.is_symlink() else "does not exist"
        raise UserError(f"{what} {shown(path)} {dead}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{what} {shown(path)} cannot be read ({_reason(error)})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO, socket or device"
        raise UserError(f"{what} {shown(path)} is {kind}, not a file of pixels")


def _bytes(path: Path) -> bytes:
    check_regular(path)
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"image file {shown(path)}: {size:,} bytes; at most {MOST_BYTES:,} are read. Scale it down")
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"image file {shown(path)} cannot be read ({_reason(error)}); let this user read it, or remove it"
        ) from error


def _decode(path: Path, size: int, how: Preparation, content: bytes | None) -> Image.Image:
    """Return the whole image upright in mode L or RGB; a JPEG at a fraction of its size, never below 2 x ``size``."""
    with _named(path):
        if _is_dicom(path, content):
            return dicom.dicom_image(_bytes(path) if content is None else content, MOST_PIXELS, how.white_level, how.window)
        if how.window is not None:
            raise NotReadError(f"no DICOM file; {dicom.WINDOWED.format(said(how.window))}")
    with _opened(path, content) as file:
        frame = check_frame(file, MOST_PIXELS)
        file.draft(None, (2 * size, 2 * size))
        return eight_bits(ImageOps.exif_transpose(file), frame, how.white_level)


def _is_dicom(path: Path, content: bytes | None = None) -> bool:
    if content is not None:
        return dicom.is_dicom(content[:132])
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return dicom.is_dicom(file.read(132))
    except OSError:
        return False  # the reader of other formats says why


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except NotReadError as error:
        raise UserError(f"image file {shown(path)}: {error}") from error.__cause__


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Give an image file of a known format, its pixels not decoded yet; UserError for all that goes wrong with it until closed."""
    name = shown(path)
    if content is None:
        check_regular(path)
    try:
        with warnings.catch_warnings(), open(path, "rb") if content is None else io.BytesIO(content) as stream:
            warnings.simplefilter("ignore")  # of odd metadata, which nothing here reads
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream, formats=_formats()) as file:
                yield file
    except NotReadError as error:
        raise UserError(f"image file {name}: {error}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"image file {name}: more than {MOST_PIXELS:,} pixels; scale it down, or cut out what matters") from error
    except UnidentifiedImageError as error:
        kinds = f"none of {', '.join(FORMATS)} by its content"
        if path.suffix.lower() in (".tif", ".tiff"):
            kinds += ", or a TIFF of a kind that is not read: want integers of up to 16 bits, or floats of 32"
        if path.suffix.lower() in dicom.SUFFIXES:
            kinds += ", nor DICOM, which has DICM at byte 128"
        raise UserError(f"image file {name} cannot be decoded ({kinds}); replace or remove it") from error
    except PermissionError as error:
        raise UserError(f"image file {name} cannot be read ({_reason(error)}); let this user read it, or remove it") from error
    except Exception as error:  # Pillow's decoders raise nearly every kind of error on broken bytes
        raise UserError(f"image file {name} cannot be decoded ({_reason(error)}); replace or remove it") from error


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # a Pillow built without WebP has no such decoder


def _padded(image: Image.Image, size: int) -> Image.Image:
    """Return the whole image at ``size`` on its longer side, centred on black: PIL's ``ImageOps.pad``, also where it is thin."""
    width, height = image.size
    wide, high = (size, height / width * size) if width >= height else (width / height * size, size)
    whole = image.resize((max(1, round(wide)), max(1, round(high))), Image.Resampling.BILINEAR)
    ground = Image.new(image.mode, (size, size))
    ground.paste(whole, (round((size - whole.width) * 0.5), round((size - whole.height) * 0.5)))
    return ground


def _grey(image: Tensor) -> Tensor:
    weights = torch.tensor(LUMA).view(3, 1, 1)
    return (image.float() * weights).sum(0, keepdim=True).round().to(torch.uint8)


def _reason(error: BaseException) -> str:
    return printable((getattr(error, "strerror", None) or str(error) or type(error).__name__).replace("\n", " "))


def _progress(paths: Sequence[Path], title: str) -> Sequence[Path]:
    if len(paths) < 500 or not sys.stderr.isatty():
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, title, console=Console(stderr=True), transient=True)  # type: ignore[return-value]
