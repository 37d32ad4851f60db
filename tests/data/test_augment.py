from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mpssl_fed.data import augment

VIEWS = {"weak": augment.apply_weak, "strong": augment.apply_strong, "half-strong": augment.apply_half_strong}
SHAPES = [(6, 1, 32, 32), (6, 3, 32, 32), (3, 3, 80, 80)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=rng(9)) * 2 - 1


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_range_and_determinism(view: str, shape: tuple[int, ...]) -> None:
    x, rows = images(*shape), augment.draw(shape[0], rng())
    y = VIEWS[view](x, rows, True)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert torch.equal(y, VIEWS[view](x, rows, True))
    assert not torch.allclose(y, VIEWS[view](x, augment.draw(shape[0], rng(1)), True))
    assert VIEWS[view](x, rows, True, size=48).shape == (*shape[:2], 48, 48)


def test_the_short_forms_draw_once_from_the_generator() -> None:
    x = images(5, 1, 32, 32)
    for short, long in [
        (augment.weak, augment.apply_weak),
        (augment.strong, augment.apply_strong),
        (augment.half_strong, augment.apply_half_strong),
    ]:
        assert torch.equal(short(x, rng(3), False), long(x, augment.draw(5, rng(3)), False))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_depends_on_its_row_alone(view: str, shape: tuple[int, ...]) -> None:
    x, rows = images(*shape).double(), augment.draw(shape[0], rng())
    together = VIEWS[view](x, rows, True)
    alone = torch.cat([VIEWS[view](x[i : i + 1], rows[i : i + 1], True) for i in range(len(x))])
    assert torch.allclose(together, alone, atol=1e-12)
    mapped = torch.func.vmap(lambda image, row: VIEWS[view](image[None], row[None], True)[0])(x, rows)
    assert torch.allclose(together, mapped, atol=1e-12)
    # A smaller batch draws the same first rows.
    assert torch.equal(augment.draw(2, rng()), rows[:2])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(2, 1, 9, 9), (1, 3, 6, 6)])
def test_gradient_equals_finite_differences(view: str, shape: tuple[int, ...]) -> None:
    # Away from the ends of the range, so that no finite difference straddles the clamp.
    x = (0.2 * images(*shape).double()).requires_grad_()
    rows = augment.draw(shape[0], rng(1)).double()
    assert torch.autograd.gradcheck(lambda x: VIEWS[view](x, rows, True), x)


def test_gradient_of_a_large_crop_equals_finite_differences() -> None:
    x, rows = (0.2 * images(1, 3, 64, 64).double()).requires_grad_(), augment.draw(1, rng())
    v, direction = torch.randn(1, 3, 64, 64, generator=rng(2)).double(), torch.randn(1, 3, 64, 64, generator=rng(4)).double()

    def f(x: Tensor) -> Tensor:
        return (augment.apply_strong(x, rows, True) * v).sum()

    (gradient,) = torch.autograd.grad(f(x), x)
    with torch.no_grad():
        central = (f(x + 1e-6 * direction) - f(x - 1e-6 * direction)) / 2e-6
    assert torch.allclose((gradient * direction).sum(), central, rtol=1e-6)


def test_middle_of_every_range_is_nearly_the_identity() -> None:
    x = images(2, 3, 32, 32)
    middle = torch.full((2, len(augment.COLUMNS)), 0.5)
    assert torch.allclose(augment.apply_weak(x, middle, True), x, atol=1e-5)
    # Cutout and blur have no neutral middle: set the erased sides to nothing and the blur between blurring and sharpening.
    middle[:, augment.COLUMNS.index("erase_w")] = 0
    middle[:, augment.COLUMNS.index("blur")] = -augment.BLUR[0] / (augment.BLUR[1] - augment.BLUR[0])
    assert torch.allclose(augment.apply_strong(x, middle, True), x, atol=1e-5)


def test_weak_moves_two_pixels_at_most_and_fills_with_black() -> None:
    x = torch.ones(1, 1, 32, 32)
    rows = torch.full((1, len(augment.COLUMNS)), 0.5)
    rows[0, augment.COLUMNS.index("shift_x")] = 1.0
    y = augment.apply_weak(x, rows, False)
    assert torch.allclose(y[..., :30], torch.ones(1, 1, 32, 30), atol=1e-5)
    assert torch.allclose(y[..., 30:], -torch.ones(1, 1, 32, 2), atol=1e-5)


@pytest.mark.parametrize("view", VIEWS)
def test_mirror_only_where_it_keeps_the_label(view: str) -> None:
    x, rows = images(2, 1, 32, 32), torch.full((2, len(augment.COLUMNS)), 0.5)
    rows[:, augment.COLUMNS.index("flip")] = torch.tensor([0.0, 0.9])
    plain, mirrored = VIEWS[view](x, rows, False), VIEWS[view](x, rows, True)
    assert not torch.allclose(plain[0], mirrored[0])
    assert torch.equal(plain[1], mirrored[1])
    if view == "weak":
        assert torch.allclose(mirrored[0], x[0].flip(-1), atol=1e-5)


def test_half_strong_is_one_or_the_other() -> None:
    x, rows = images(400, 1, 16, 16), augment.draw(400, rng())
    weak, strong, half = (VIEWS[view](x, rows, False) for view in ("weak", "strong", "half-strong"))

    def equal(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().amax((1, 2, 3)) < 1e-5

    assert (equal(half, weak) ^ equal(half, strong)).all()
    assert 160 < int(equal(half, strong).sum()) < 240


def test_strong_changes_more_than_weak() -> None:
    x = torch.nn.functional.avg_pool2d(images(64, 1, 36, 36), 5, 1)
    rows = augment.draw(64, rng())
    distance = {view: (VIEWS[view](x, rows, False) - x).pow(2).mean() for view in VIEWS}
    assert distance["weak"] < distance["half-strong"] < distance["strong"]


def test_colour_keeps_grey_grey() -> None:
    x = images(4, 1, 32, 32).expand(4, 3, 32, 32)
    y = augment.apply_strong(x, augment.draw(4, rng()), False)
    assert torch.allclose(y, y[:, :1].expand_as(y), atol=1e-5)


def test_large_images_are_cropped_within_bounds() -> None:
    rows = augment.draw(2000, rng())
    w, h, x, y = augment._crop(rows)
    assert ((x.abs() + w <= 1 + 1e-6) & (y.abs() + h <= 1 + 1e-6)).all()
    assert 0.45 < float((w * h).mean()) < 0.6
    assert augment.apply_weak(torch.ones(4, 3, 64, 64), rows[:4], True).min() > 0.999


@pytest.mark.parametrize("view", VIEWS)
def test_half_precision_sees_the_same_geometry(view: str) -> None:
    x, rows = images(4, 3, 96, 96).bfloat16(), augment.draw(4, rng())
    y = VIEWS[view](x, rows, True)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), VIEWS[view](x.float(), rows, True), atol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("view", VIEWS)
def test_every_device_sees_the_same_view(view: str) -> None:
    x, rows = images(4, 3, 32, 32), augment.draw(4, rng())
    assert torch.allclose(VIEWS[view](x.cuda(), rows, True).cpu(), VIEWS[view](x, rows, True), atol=1e-4)
