"""Any decoded picture as 8-bit grey or colour: a scaling by type, never by the largest value that happens to be there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

COLOUR = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "LA", "La", "CMYK", "YCbCr", "HSV")
BITS, PHOTOMETRIC, SAMPLE_FORMAT, SIGNED = 258, 262, 339, 2
"""TIFF's tags, and its value of a signed sample."""

NARROW = {"L;2": 85, "L;4": 17}
"""Grey of few bits by the name of Pillow's decoder, and what it multiplies a value by."""

DARK = 0.25
"""A wide image whose brightest pixel lies below this share of white may be one of fewer bits, as 12 bits in a file of 16."""

ROWS = 256
"""Rows that are scaled at once, so that no copy of a whole image in float64 is held."""


class NotReadError(Exception):
    """Why a picture is refused, and the cure; the reader adds the name of the file."""


@dataclass(frozen=True)
class Frame:
    """What a file says of its pixels before they are decoded.

    white: value of white by its type, None where the type has none (32-bit integers). bits: as declared. wide_colour: colour of
    16 bits a channel, of which Pillow keeps the upper 8. transparent: the grey value that is transparent, if one is named, as it
    is once decoded: Pillow scales grey of 2 or 4 bits to 8, and forgets to scale this.
    """

    white: float | None
    bits: int
    wide_colour: bool
    transparent: int | None


def check_frame(file: Image.Image, most_pixels: int) -> Frame:
    """Return what ``file`` says of its pixels; NotReadError for one too large, of several pages, or that cannot be scaled."""
    if file.width * file.height > most_pixels:
        raise NotReadError(
            f"{file.width} x {file.height} pixels; at most {most_pixels:,} are read. Scale it down, or cut out what matters"
        )
    pages = getattr(file, "n_frames", 1)
    if pages > 1 and file.format != "MPO":  # phones put a preview or a second view behind the picture
        kind = "pages" if file.format == "TIFF" else "frames, an animation"
        raise NotReadError(f"{pages} {kind}; one image a file is read: save the one that matters by itself")
    tags: Any = getattr(file, "tag_v2", None) or {}
    bits = int((tags.get(BITS) or (16,))[0]) if file.mode.startswith("I;16") or file.format in ("PNG", "PPM") else 32
    if file.mode == "L" and SIGNED in _all(tags.get(SAMPLE_FORMAT)):
        raise NotReadError("signed 8-bit grey, whose black and white it does not say; save it as unsigned 8-bit grey")
    if _is_wide(file) and tags.get(PHOTOMETRIC) == 0:
        raise NotReadError("wide grey in which 0 is white; save it with 0 as black (BlackIsZero)")
    if not _is_wide(file) and file.mode not in ("1", "L", *COLOUR):
        raise NotReadError(f"colours of the kind {file.mode}; save it as RGB or grey")
    rawmodes = [tile[3] if isinstance(tile[3], str) else str((tile[3] or ("",))[0]) for tile in getattr(file, "tile", ())]
    wide_colour = file.mode in ("RGB", "RGBA") and any(";16" in mode for mode in rawmodes)
    transparent = file.info.get("transparency")
    if wide_colour and transparent is not None:  # Pillow keeps 8 bits of a pixel and would compare them with all 16 of this colour
        raise NotReadError("16-bit colour of which one colour is transparent; save it with an alpha channel, or as 8-bit colour")
    scale = next((NARROW[mode] for mode in rawmodes if mode in NARROW), 1)
    return Frame(_white(file, bits), bits, wide_colour, transparent * scale if isinstance(transparent, int) else None)


def eight_bits(image: Image.Image, frame: Frame, white_level: float | None = None) -> Image.Image:
    """Return the image in mode L or RGB.

    8-bit grey, colour, palettes, CMYK: PIL's own ``convert``. Bits: black and white. 16-bit grey: 255 v / 65,535, or by the bits
    that a TIFF declares; floats: 255 v for v in [0, 1]. ``white_level`` takes the place of 65,535 and of 1, and is what 32-bit
    integers need. Transparency lies on white, be it a channel, a palette's entry or one value. Raises NotReadError for NaN and
    infinity, values outside the range, and wide images below a quarter of it that may have fewer bits.
    """
    if _is_wide(image):
        return _scaled(np.asarray(image), frame, white_level)
    if image.mode == "L" and frame.transparent is not None:
        image.info["transparency"] = frame.transparent
    if image.has_transparency_data:
        full = image.convert("LA") if image.mode == "La" else image
        ground = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(ground, full.convert("RGBA")).convert("RGB")
        check = np.asarray(image.convert("RGBA"))[..., :3] if frame.wide_colour else None
    else:
        flat = image.convert("L" if image.mode in ("1", "L") else "RGB")
        check = np.asarray(flat) if frame.wide_colour else None
    if check is not None:
        _check_wide_colour(int(check.max()), white_level)
    return flat


def _scaled(values: np.ndarray, frame: Frame, white_level: float | None) -> Image.Image:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        broken = int(values.size - np.isfinite(values).sum())
        raise NotReadError(f"{broken} of {values.size} pixels are NaN or infinite; say what they are to be before you save it")
    low, high = float(values.min()), float(values.max())
    kind = "float" if values.dtype.kind == "f" else f"{frame.bits}-bit"
    if white_level is not None and values.dtype.kind != "f" and frame.white is not None and white_level > frame.white:
        raise NotReadError(
            f"{kind} grey, whose largest value is {frame.white:g}, cannot have white at {white_level:g}; say what white is: "
            f"{level(high)}"
        )
    white = white_level or frame.white
    if white is None and low < 0:
        raise NotReadError(f"{kind} integers from {low:g} to {high:g}; black is 0: rescale them, with 0 as black")
    if white is None:
        raise NotReadError(f"{kind} integers from {low:g} to {high:g}, whose white no type says; say it: {level(high)}")
    if low < 0 or high > white:
        cure = f"rescale it to 0 to {white:g}" if low < 0 else f"set {level(high)}"
        raise NotReadError(f"{kind} values from {low:g} to {high:g}, where 0 is black and {white:g} white; {cure}")
    declared = values.dtype.kind != "f" and frame.white != 65535  # a TIFF that says 12 bits
    if white_level is None and not declared and 0 < high < DARK * white:
        raise NotReadError(
            f"{kind} grey of which no pixel is above {high:g} of {white:g}, so it would be nearly black; say what white is: "
            f"{level(high)}, or {white:g} if it is that dark"
        )
    out = np.empty(values.shape, np.uint8)
    for first in range(0, len(values), ROWS):
        rows = values[first : first + ROWS]
        out[first : first + ROWS] = np.rint(rows.astype(np.float64) * (255 / white))
    if frame.transparent is not None:
        out[values == frame.transparent] = 255
    return Image.fromarray(out)


def _check_wide_colour(high: int, white_level: float | None) -> None:
    """Refuse 16-bit colour that may have fewer bits; ``high`` [0, 255] is the upper byte of its largest value."""
    if white_level not in (None, 65535):
        raise NotReadError(
            f"16-bit colour, which is read in its full range and not by white_level {white_level:g}; save it as 8-bit"
        )
    if white_level is None and high < DARK * 256:
        raise NotReadError(
            f"16-bit colour of which no value is above {256 * high + 255} of 65535, so it would be nearly black; save it as 8-bit "
            "colour, or, if it is that dark, set data.white_level=65535 (commands: --white-level 65535)"
        )


def level(high: float) -> str:
    """Return how to state the white level, with the likely one: 1, 255, or that of the fewest bits."""
    guess = 1 if 0 < high <= 1 else next((2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits), int(high))
    return f"data.white_level={guess} (commands: --white-level {guess})"


def _white(file: Image.Image, bits: int) -> float | None:
    if file.mode == "F":
        return 1.0
    if file.mode.startswith("I;16"):
        return float(2**bits - 1)
    return 65535.0 if file.format in ("PNG", "PPM") else None  # older versions of Pillow read 16 bits as mode I


def _is_wide(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _all(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
