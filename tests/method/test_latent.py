"""The latents' Adam, held against its formula, against torch's, and against itself after a stop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mpssl_fed.config.learning import Latent
from mpssl_fed.method.latent import Latents

SETTINGS = Latent(hidden=5, mapper_lr=3e-3, converter_lr=0.2)
STEPS = 30
BETA_1, BETA_2, EPS = 0.9, 0.99, 1e-8


def _latents(dtype: torch.dtype = torch.float64) -> Latents:
    return Latents(3, 4, 6, 2.0, SETTINGS, seed=1).to(dtype)


def _gradients(latents: Latents, steps: int = STEPS) -> list[list[Tensor]]:
    """Of many sizes; some rows are zero, as those of classes that were not drawn are, and one step is zero throughout."""
    rng = torch.Generator().manual_seed(3)
    found = []
    for step in range(steps):
        scale = 0.0 if step == 7 else 10.0 ** (step % 9 - 6)
        drawn = [torch.randn(p.shape, generator=rng, dtype=torch.float64) * scale for p in latents.parameters()]
        drawn[-1][step % 4] = 0
        found.append([one.to(next(latents.parameters()).dtype) for one in drawn])
    return found


def _ours(latents: Latents, gradients: list[list[Tensor]]) -> list[Tensor]:
    for gradient in gradients:
        latents.adam(gradient)
    return [parameter.detach().clone() for parameter in latents.parameters()]


def test_it_is_the_formula() -> None:
    """Algorithm 1 of arXiv 1412.6980, entry by entry, with a step size of its own for the converter."""
    latents = _latents()
    gradients = _gradients(latents)
    theta = [parameter.detach().numpy().copy() for parameter in latents.parameters()]
    rates = [SETTINGS.mapper_lr] * 4 + [SETTINGS.converter_lr]
    m, v = ([np.zeros_like(one) for one in theta] for _ in range(2))
    for t, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(one.numpy() for one in gradient):
            m[i] = BETA_1 * m[i] + (1 - BETA_1) * g
            v[i] = BETA_2 * v[i] + (1 - BETA_2) * g**2
            theta[i] = theta[i] - rates[i] * (m[i] / (1 - BETA_1**t)) / (np.sqrt(v[i] / (1 - BETA_2**t)) + EPS)
    for ours, expected in zip(_ours(latents, gradients), theta, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dtype", "far"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_it_is_torchs(dtype: torch.dtype, far: float) -> None:
    """The moments to the bit; the weights but for the last bits, since torch divides the second moment's root by a root."""
    latents, other = _latents(dtype), _latents(dtype)
    parameters, mapper = list(other.parameters()), len(list(other.mapper.parameters()))
    groups = [
        {"params": parameters[:mapper], "lr": SETTINGS.mapper_lr},
        {"params": parameters[mapper:], "lr": SETTINGS.converter_lr},
    ]
    adam = torch.optim.Adam(groups, betas=(BETA_1, BETA_2), eps=EPS)
    gradients = _gradients(latents)
    for gradient in gradients:
        for parameter, g in zip(parameters, gradient, strict=True):
            parameter.grad = g.clone()
        adam.step()
    moved = _ours(latents, gradients)
    for index, (ours, theirs) in enumerate(zip(moved, parameters, strict=True)):
        torch.testing.assert_close(ours, theirs.detach(), rtol=far, atol=far)
        assert torch.equal(latents.get_buffer(f"first_{index}"), adam.state[theirs]["exp_avg"])
        assert torch.equal(latents.get_buffer(f"second_{index}"), adam.state[theirs]["exp_avg_sq"])
        assert latents.steps == int(adam.state[theirs]["step"]) == STEPS


def test_it_goes_on_from_its_state_to_the_bit() -> None:
    whole, first, second = (_latents(torch.float32) for _ in range(3))
    gradients = _gradients(whole)
    _ours(first, gradients[:11])
    second.load(first.state())
    expected = _ours(whole, gradients)
    assert all(torch.equal(a, b) for a, b in zip(_ours(second, gradients[11:]), expected, strict=True))
    assert second.state().keys() == whole.state().keys()


def test_the_names_of_its_state_are_what_sites_have_on_disk() -> None:
    of_networks = {f"mapper.{layer}.{part}" for layer in ("inner", "outer") for part in ("weight", "bias")} | {"converter.table"}
    of_adam = {f"{moment}_{index}" for moment in ("first", "second") for index in range(5)}
    assert _latents().state().keys() == of_networks | of_adam | {"steps"}
