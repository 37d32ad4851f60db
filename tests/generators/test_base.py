from __future__ import annotations

import pytest
import torch

from mpssl_fed.errors import UserError
from mpssl_fed.generators import fit_images, load_generator


def test_unknown_name_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown generators 'glyph-digits'.*Did you mean 'glyphs-digits'"):
        load_generator("glyph-digits")


@pytest.mark.parametrize("truncation", [0.0, -1.0, 1.5, float("nan")])
def test_truncation_outside_the_unit_interval(truncation):
    with pytest.raises(UserError, match=r"generator.truncation is .* above 0 and at most 1"):
        load_generator("glyphs-digits", truncation=truncation)


def test_sample_z_is_a_truncated_gaussian_times_truncation():
    generator = load_generator("glyphs-digits", truncation=0.5)
    z = generator.sample_z(4000, torch.Generator().manual_seed(1))
    assert z.shape == (4000, generator.z_dim)
    assert z.abs().max() <= 1.0
    # A Gaussian cut at two standard deviations has standard deviation .8796.
    assert z.std().item() == pytest.approx(0.5 * 0.8796, abs=0.005)
    assert z.mean().item() == pytest.approx(0, abs=0.005)


def test_sample_z_takes_all_its_randomness_from_the_rng():
    generator = load_generator("glyphs-digits")
    first = generator.sample_z(3, torch.Generator().manual_seed(7))
    torch.rand(5)
    again = generator.sample_z(3, torch.Generator().manual_seed(7))
    assert torch.equal(first, again)
    assert not torch.equal(first, generator.sample_z(3, torch.Generator().manual_seed(8)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 48])
@pytest.mark.parametrize("before", [1, 3])
def test_fit_images_shape_range_and_gradient(before, channels, size):
    x = (torch.rand(2, before, 32, 32, dtype=torch.float64) * 2 - 1).requires_grad_()
    y = fit_images(x, channels, size)
    assert y.shape == (2, channels, size, size)
    assert y.abs().max() <= 1 + 1e-12
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_fit_images_keeps_grey_and_refuses_other_channels():
    grey = torch.rand(2, 1, 8, 8)
    assert torch.allclose(fit_images(fit_images(grey, 3, 8), 1, 8), grey, atol=1e-6)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        fit_images(torch.rand(2, 2, 8, 8), 3, 8)
