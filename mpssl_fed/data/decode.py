"""Image files into uint8 tensors: upright, square, grey or colour."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mpssl_fed.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: Path, size: int, central: float = 1.0, content: bytes | None = None) -> Tensor:
    """Return one file as uint8 [C, size, size], C 1 if every pixel is grey, else 3.

    The image is turned upright by its EXIF orientation; then the central square (of ``central`` x the short side) is
    resized, which equals resizing the short side and cropping the centre. Transparency lies on white; 16-bit grey is
    scaled to 8. content: the file's bytes, where they were read already. Raises UserError naming a file that is missing or broken.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as file:
            file.draft(None, (2 * size, 2 * size))  # a JPEG decodes at a fraction of its size, never below this one
            image = _eight_bits(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise UserError(f"image file {path} does not exist") from error
    except UnidentifiedImageError as error:
        raise UserError(f"image file {path} cannot be decoded (of no known kind); replace or remove it") from error
    except Exception as error:  # Pillow's decoders raise nearly every kind of error on broken bytes
        raise UserError(f"image file {path} cannot be decoded ({error}); replace or remove it") from error
    side = central * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = np.array(square)
    x = torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
    return x[:1] if len(x) == 3 and bool((x == x[:1]).all()) else x


def read_images(
    paths: Sequence[Path], size: int, channels: int | None = None, central: float = 1.0, title: str = "reading images"
) -> Tensor:
    """Return the files as uint8 [n, C, size, size]: C ``channels``, or by default 1 if all of them are grey, else 3.

    Colour turns to grey by ITU-R 601 luma. Progress shows on a terminal when there is much to decode.
    """
    return read_with_digests(paths, size, channels, central, title)[0]


def read_with_digests(
    paths: Sequence[Path], size: int, channels: int | None = None, central: float = 1.0, title: str = "reading images"
) -> tuple[Tensor, tuple[str, ...]]:
    """Return what :func:`read_images` does, and the SHA-256 (hex) of each file's bytes: the very ones that were decoded."""
    digests: list[str] = []
    out = torch.empty(len(paths), channels or 3, size, size, dtype=torch.uint8)
    all_grey = True
    for row, path in zip(out, _progress(paths, title), strict=True):
        content = _bytes(path)
        digests.append(hashlib.sha256(content).hexdigest())
        image = read_image(path, size, central, content)
        all_grey = all_grey and len(image) == 1
        row.copy_(_grey(image) if channels == 1 and len(image) == 3 else image)
    return (out[:, :1].clone() if channels is None and all_grey else out), tuple(digests)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"image file {path} does not exist") from error
    except OSError as error:
        raise UserError(f"image file {path} cannot be read ({error.strerror}); replace or remove it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I;16", "I", "F")):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit scanners use all 65,535 steps; a file of 8-bit values in a wider type is taken as it is.
        values = values / 257 if values.max() > 255 else values
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey(image: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (image.float() * weights).sum(0, keepdim=True).round().to(torch.uint8)


def _progress(paths: Sequence[Path], title: str) -> Sequence[Path]:
    if len(paths) < 500 or not sys.stderr.isatty():
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, title, console=Console(stderr=True), transient=True)  # type: ignore[return-value]
