"""Weak and strong views of a batch: one affine resampling, then (strong) photometric changes and an erased rectangle.

Every image has its own row of uniform numbers in one fixed layout, and its view depends on that row alone: not on the rest
of the batch, nor on the batch's size. So a per-example loop, a vmap and a micro-batched pass see the same views. All steps are
differentiable to first order in x (`grid_sample` has no second derivative).

Geometry by side: below 64 px small shifts, turns and scales, as suit centred glyphs and garments; from 64 px random resized
crops, the author's protocol for photographs. Outside a small image lies black (-1), the ground that digits and garments stand
on; a photograph is reflected at its edge, so that no view gains a frame that its label could be read from.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 64  # px: from this side on, geometry starts from a random resized crop
COLUMNS = (
    "mode", "flip", "turn", "scale", "shear", "shift_x", "shift_y", "area", "ratio", "crop_x", "crop_y", "brightness",
    "contrast", "saturation", "blur", "erase_w", "erase_h", "erase_x", "erase_y", *(f"mix_{i}" for i in range(9)),
)  # fmt: skip
_AT = {name: i for i, name in enumerate(COLUMNS)}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

# Half widths of the uniform ranges, (weak, strong).
TURN = (8 * math.pi / 180, 25 * math.pi / 180)
LOG_SCALE = (0.08, 0.25)
SHEAR = (0.0, 0.25)
SHIFT = (1 / 8, 3 / 16)  # of the half side: 2 and 3 px at 32
BRIGHTNESS = 0.3  # strong only, of the range [-1, 1]; the same holds for the rest
LOG_CONTRAST = 0.6
SATURATION = (0.4, 1.6)
MIX = 0.2
BLUR = (-0.6, 1.0)  # below 0 sharpens; 1 is the 3 x 3 binomial kernel
ERASE = 0.5  # longest erased side, of the image's side (cutout as in FixMatch, arXiv 2001.07685)
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random resized crop; torchvision's defaults


def weak(x: Tensor, rng: torch.Generator, flip: bool, size: int | None = None) -> Tensor:
    """Return a weak view of x [n, C, H, W] in [-1, 1]: shift, turn and scale a little, or crop; mirror if ``flip``.

    ``size`` asks for [n, C, size, size] (resampled in the same pass); by default the shape stays. Randomness comes from the
    CPU generator ``rng`` alone, so every device sees the same view.
    """
    return apply_weak(x, draw(len(x), rng), flip, size)


def strong(x: Tensor, rng: torch.Generator, flip: bool, size: int | None = None) -> Tensor:
    """Return a strong view: larger affine changes, contrast, brightness, colour, blur or sharpening, and cutout."""
    return apply_strong(x, draw(len(x), rng), flip, size)


def half_strong(x: Tensor, rng: torch.Generator, flip: bool, size: int | None = None) -> Tensor:
    """Return views of which each is strong with probability 1/2, else weak."""
    return apply_half_strong(x, draw(len(x), rng), flip, size)


def draw(n: int, rng: torch.Generator) -> Tensor:
    """Return the randomness of n views, [n, len(COLUMNS)] uniform in [0, 1) on the CPU; row i is image i's alone."""
    return torch.rand(n, len(COLUMNS), generator=rng)


def apply_weak(x: Tensor, rows: Tensor, flip: bool, size: int | None = None) -> Tensor:
    """Return weak views of x [n, C, H, W] for the randomness ``rows`` [n, len(COLUMNS)]; deterministic."""
    return _view(x, rows, None, flip, size)


def apply_strong(x: Tensor, rows: Tensor, flip: bool, size: int | None = None) -> Tensor:
    """Return strong views for the randomness ``rows``; deterministic."""
    return _view(x, rows, torch.ones_like(rows[:, 0]), flip, size)


def apply_half_strong(x: Tensor, rows: Tensor, flip: bool, size: int | None = None) -> Tensor:
    """Return strong views where the row's first number is below 1/2 and weak ones elsewhere; deterministic."""
    return _view(x, rows, (rows[:, _AT["mode"]] < 0.5).to(rows.dtype), flip, size)


def _view(x: Tensor, rows: Tensor, is_strong: Tensor | None, flip: bool, size: int | None) -> Tensor:
    """Views of x in its type; is_strong [n] is 1 or 0, or None where all views are weak."""
    # Half precision cannot tell neighbouring pixel centres apart.
    full = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    u = rows.to(full)
    s = torch.zeros_like(u[:, 0]) if is_strong is None else is_strong.to(full)
    view = _resample(full, u, s, flip, size)
    return (view if is_strong is None else _photometric(view, u, s)).to(x.dtype)


def _resample(x: Tensor, u: Tensor, s: Tensor, flip: bool, size: int | None) -> Tensor:
    """One bilinear pass through the inverse map from output to input coordinates in [-1, 1]; s [n] is 1 for strong."""
    height, width = x.shape[2:]
    large = min(height, width) >= LARGE
    # The weak view of a photograph is crop and mirror alone.
    least = 0.0 if large else 1.0

    def ranged(name: str, limits: tuple[float, float]) -> Tensor:
        return (2 * u[:, _AT[name]] - 1) * (least * limits[0] + s * (limits[1] - least * limits[0]))

    turn, zoom, shear = ranged("turn", TURN), ranged("scale", LOG_SCALE).exp(), ranged("shear", SHEAR)
    cos, sin = turn.cos() * zoom, turn.sin() * zoom
    # [[a, b, e], [c, d, f]]: rotation x scale x shear, then the shift.
    a, b, e = cos, shear * cos - sin, ranged("shift_x", SHIFT)
    c, d, f = sin, shear * sin + cos, ranged("shift_y", SHIFT)
    if flip:
        mirror = torch.where(u[:, _AT["flip"]] < 0.5, -1.0, 1.0).to(x)
        a, c = a * mirror, c * mirror
    if large:
        w, h, left, top = _crop(u)
        a, b, e = a * w, b * w, e * w + left
        c, d, f = c * h, d * h, f * h + top
    down, across = (_centres(pixels, x) for pixels in (size or height, size or width))
    # The grid [n, H, W, 2] by hand, since torch.func.vmap has no rule for affine_grid.
    grid = torch.stack(
        [
            (b[:, None] * down)[:, :, None] + (a[:, None] * across + e[:, None])[:, None, :],
            (d[:, None] * down)[:, :, None] + (c[:, None] * across + f[:, None])[:, None, :],
        ],
        dim=-1,
    )
    # Zero padding of x + 1 is padding with -1.
    padding = "reflection" if large else "zeros"
    return F.grid_sample(x + 1, grid, mode="bilinear", padding_mode=padding, align_corners=False) - 1


def _centres(pixels: int, x: Tensor) -> Tensor:
    """Pixel centres along one axis in coordinates [-1, 1], of x's type and device."""
    return (2 * torch.arange(pixels, dtype=x.dtype, device=x.device) + 1) / pixels - 1


def _crop(u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half width, half height and centre [n] of a random resized crop in coordinates [-1, 1].

    Where torchvision draws anew if a side exceeds the image, the side is cut to it: one row of numbers, one crop.
    """
    area = AREA[0] + u[:, _AT["area"]] * (AREA[1] - AREA[0])
    log_ratio = math.log(RATIO[0]) + u[:, _AT["ratio"]] * math.log(RATIO[1] / RATIO[0])
    w = (area * log_ratio.exp()).sqrt().clamp(max=1)
    h = (area / log_ratio.exp()).sqrt().clamp(max=1)
    return w, h, (2 * u[:, _AT["crop_x"]] - 1) * (1 - w), (2 * u[:, _AT["crop_y"]] - 1) * (1 - h)


def _photometric(x: Tensor, u: Tensor, s: Tensor) -> Tensor:
    """Colour, blur or sharpen, contrast, brightness, cutout, clamp to [-1, 1]; the identity where s [n] is 0."""

    def column(name: str) -> Tensor:
        return u[:, _AT[name]].view(-1, 1, 1, 1)

    s = s.view(-1, 1, 1, 1)
    if x.shape[1] == 3:
        x = torch.einsum("nij,njhw->nihw", _mixing(u, s.view(-1, 1, 1)), x)
    x = x + s * (BLUR[0] + column("blur") * (BLUR[1] - BLUR[0])) * (_blurred(x) - x)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (s * LOG_CONTRAST * (2 * column("contrast") - 1)).exp()
    x = mean + contrast * (x - mean) + s * BRIGHTNESS * (2 * column("brightness") - 1)
    return (x * (1 - s * _rectangle(x, u))).clamp(-1, 1)


def _mixing(u: Tensor, s: Tensor) -> Tensor:
    """Matrices [n, 3, 3] on the channels: saturation, then a random mixing that leaves grey grey (rows sum to 1)."""
    grey = torch.tensor([_LUMA] * 3, dtype=u.dtype, device=u.device)
    identity = torch.eye(3, dtype=u.dtype, device=u.device)
    saturation = SATURATION[0] + u[:, _AT["saturation"]].view(-1, 1, 1) * (SATURATION[1] - SATURATION[0])
    noise = MIX * (2 * u[:, _AT["mix_0"] :].view(-1, 3, 3) - 1)
    return identity + s * ((saturation - 1) * (identity - grey) + noise - noise.mean(2, keepdim=True))


def _blurred(x: Tensor) -> Tensor:
    """Binomial 3 x 3 blur, its taps set apart in proportion to the side of large images."""
    step = max(1, min(x.shape[-2:]) // LARGE)
    padded = F.pad(x, (step, step, step, step), mode="replicate")
    rows = padded[..., : -2 * step, :] + 2 * padded[..., step:-step, :] + padded[..., 2 * step :, :]
    return (rows[..., : -2 * step] + 2 * rows[..., step:-step] + rows[..., 2 * step :]) / 16


def _rectangle(x: Tensor, u: Tensor) -> Tensor:
    """Masks [n, 1, H, W], 1 inside the rectangle that turns mid-grey (0)."""

    def inside(pixels: int, length: str, centre: str) -> Tensor:
        place = (_centres(pixels, x) + 1) / 2
        return (place - u[:, _AT[centre], None]).abs() < ERASE / 2 * u[:, _AT[length], None]

    across, down = inside(x.shape[3], "erase_w", "erase_x"), inside(x.shape[2], "erase_h", "erase_y")
    return (down[:, None, :, None] & across[:, None, None, :]).to(x.dtype)
