"""How an image file becomes the classifier's input: a value that readers use, model files carry and exports state."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from mpssl_fed.config.data import Fit
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import parse_json

FITS: tuple[Fit, ...] = get_args(Fit)
LUMA = (0.299, 0.587, 0.114)
"""Grey of red, green and blue: ITU-R BT.601."""


@dataclass(frozen=True)
class Preparation:
    """From a file of any size to a square, before pixels become numbers.

    fit: ``crop`` keeps the central square, ``pad`` adds black beside the shorter side, ``squash`` changes the aspect ratio.
    central: share of the short side that a crop keeps, in (0, 1]. pads_28: files of just 28 x 28 pixels get a black border to 32,
    as the 28-pixel data sets do. ink: drawings of Omniglot's kind, thin and dark on white, are inverted and their strokes grow by
    one pixel on each side before the square is resized. white_level: value of white in grey images of 16 or 32 bits or of floats,
    None: the type's own (65,535 and 1). window: (center, width) in the units of grey DICOM files once rescaled, of which alone
    images then come; None: each file's own. Raises UserError for values outside these ranges.
    """

    fit: Fit = "crop"
    central: float = 1.0
    pads_28: bool = False
    ink: bool = False
    white_level: float | None = None
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise UserError(f"data.fit is '{self.fit}'.{nearest(str(self.fit), FITS)} Known: {', '.join(FITS)}")
        if not 0 < self.central <= 1 or (self.central < 1 and self.fit != "crop"):
            raise UserError(f"a central part of {self.central} with fit {self.fit}: want a share in (0, 1], below 1 for crop alone")
        if self.white_level is not None and not (math.isfinite(self.white_level) and self.white_level > 0):
            raise UserError(f"data.white_level is {self.white_level}; want a finite number above 0, such as 4095 for 12 bits")
        if self.window is not None and not (all(map(math.isfinite, self.window)) and self.window[1] >= 1):
            raise UserError(f"data.window is {said(self.window)}; want a finite center and a width of at least 1")
        if self.window is not None and self.white_level is not None:
            raise UserError(
                f"data.window ({said(self.window)}) and data.white_level={self.white_level:g} both say what white is; leave one out"
            )

    def to_json(self) -> str:
        """Return it as JSON, for the header of a model file."""
        return json.dumps(asdict(self), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Preparation:
        """Return what :meth:`to_json` wrote. ValueError for anything else: guessing would give other predictions in silence."""
        found = parse_json(text)
        kinds = {"fit": str, "central": float | int, "pads_28": bool, "ink": bool, "white_level": float | int | None}
        if isinstance(found, dict):
            found = {"ink": False, "window": None, **found}  # runs of an earlier version had none
        if not isinstance(found, dict) or set(found) != {field.name for field in fields(Preparation)}:
            raise ValueError(f"preparation {text[:200]} is not of this version")
        wrong = [key for key, kind in kinds.items() if not isinstance(found[key], kind)]
        if wrong:
            raise ValueError(f"preparation: {wrong[0]} is {found[wrong[0]]!r}")
        try:
            return Preparation(**found | {"window": _pair(found["window"])})
        except (UserError, OverflowError) as error:
            raise ValueError(str(error)) from error

    def steps(self, size: int, channels: int) -> dict[str, Any]:
        """Return what another program must do with a file, as JSON types, in the order in which it is done.

        luma: weights of red, green and blue in a grey input, rounded after resizing; None for colour, where grey fills all three.
        docs/own-data.md does it in ten lines.
        """
        squares = {
            "crop": f"central square of {self.central:.10g} x the short side; what lies beyond it is cut off",
            "pad": "whole image, with black beside the shorter side",
            "squash": "whole image, each side on its own",
        }
        return {
            "orientation": "upright by EXIF",
            "transparency": "on white",
            "fit": self.fit,
            "central": self.central,
            "square": squares[self.fit],
            "resize": "bilinear with antialias (PIL.Image.resize)",
            "size": size,
            "channels": channels,
            "luma": list(LUMA) if channels == 1 else None,
            "white_level": self.white_level,
            "window": None if self.window is None else {"center": self.window[0], "width": self.window[1], "function": "LINEAR"},
            "pads_28": self.pads_28,
            "ink": "255 - grey, then the brightest of 3 x 3 pixels, before it is made square" if self.ink else None,
            "scale": "pixel / 127.5 - 1 for pixels 0..255",
        }


def _pair(window: Any) -> tuple[float, float] | None:
    if window is None:
        return None
    if not isinstance(window, list) or len(window) != 2 or any(type(value) not in (int, float) for value in window):
        raise ValueError(f"preparation: window is {window!r}")
    return float(window[0]), float(window[1])


def said(window: tuple[float, float]) -> str:
    """Return a window in words."""
    return f"center {window[0]:.10g}, width {window[1]:.10g}"
