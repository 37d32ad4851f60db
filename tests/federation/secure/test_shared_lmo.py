"""Latent meta-optimisation where noise is shared: it looks ahead along what all have seen, never along a site's own gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from mpssl_fed.federation import parts
from mpssl_fed.federation.site import site as site_module
from mpssl_fed.federation.site.opened import OPENED, ROUND, SEEN, LastOpened, kept_of
from mpssl_fed.federation.site.sharing import part_of
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.privacy import build
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import tiny_config
from tests.federation.secure.test_shared import SHARED, UNMASKED, Quiet, clipped_gradient, weights

Runner = Callable[..., RunDirectory]
LMO = (*SHARED, "method={name: mp-ssl, warmup: 0, lmo_every: 1, lmo_batch: 4, batch: 4, buffer: 1, augment: none}")


class Silent(Quiet):
    """No noise on what a site releases alone either."""

    def add(self, total: NDArray[np.float64], std: float) -> NDArray[np.float64]:
        return total.copy()


def latents(run: RunDirectory, site: int, number: int) -> dict[str, torch.Tensor]:
    """Return the latents of a site after a round."""
    file = next((run.sites / str(site)).rglob(f"*{number}.safetensors"))
    return {key: value for key, value in load_file(file).items() if "latents" in key and "after" in key}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """(step, InnerStep) of every latent meta-optimisation, in order."""
    found: list[tuple[int, Any]] = []
    plain = MetaOptimised.meta_step

    def noted(self: MetaOptimised, t: int, inner: Any) -> dict[str, float]:
        found.append((t, replace(inner, theta={name: p.detach().clone() for name, p in inner.theta.items()})))
        return plain(self, t, inner)

    monkeypatch.setattr(MetaOptimised, "meta_step", noted)
    return found


def test_it_looks_ahead_along_the_opened_gradient_of_the_round_before(
    run_tiny: Runner, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, Any]]
) -> None:
    """Zero at first; then what the server stepped along, which is all sites' clipped gradients where nothing is noised."""
    monkeypatch.setattr(build, "noise_source", lambda name: Silent())
    run = run_tiny(*LMO, "federation.rounds=2", UNMASKED, "method.lambda=1e-9")  # no more than LMO needs to run
    assert [t for t, _ in seen] == [0] * 4 + [1] * 4
    classifier = parts.initial_classifier(run.config)
    sums = [clipped_gradient(classifier, parts.simulated(run.config, site).labelled, 1.0) for site in range(4)]
    for t, inner in seen:
        for name, g in inner.g.items():
            opened = sum(one[name] for one in sums) / (0.2 * 4 * 10)
            assert torch.allclose(g.double(), opened if t else torch.zeros_like(opened), atol=2e-5), (t, name)
    moved = {name: (seen[0][1].theta[name] - seen[4][1].theta[name]) / 0.5 for name in seen[0][1].theta}
    assert all(torch.allclose(inner.g[name], moved[name], atol=1e-6) for t, inner in seen if t for name in moved)
    assert max(float(g.abs().max()) for g in moved.values()) > 1e-3


@pytest.mark.parametrize("planted", [False, True])
def test_no_gradient_of_the_site_alone_reaches_the_latents(
    planted: bool, run_tiny: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another gradient sum at every site: the latents of the round are the same to the bit. Not so with a look-ahead along it."""
    monkeypatch.setattr(build, "noise_source", lambda name: Silent())
    own = DPPrivateData.gradient_sum

    def fault(learner: Any, number: int, size: int, _: object) -> Any:
        theta = learner.classifier.theta()
        local = learner.private.gradient_sum(theta, learner.private.units)
        return part_of(learner, number, size, {name: value.to(theta[name]) for name, value in zip(theta, local, strict=True)})

    if planted:
        monkeypatch.setattr(site_module, "part_of", fault)
    before = run_tiny(*LMO, UNMASKED, folder=tmp_path / "before")
    monkeypatch.setattr(DPPrivateData, "gradient_sum", lambda *args: [-3 * part for part in own(*args)])
    after = run_tiny(*LMO, UNMASKED, folder=tmp_path / "after")
    assert any(not torch.equal(value, weights(after)[name]) for name, value in weights(before).items())
    same = []
    for site in range(4):
        one, other = latents(before, site, 1), latents(after, site, 1)
        assert len(one) > 3
        same += [torch.equal(value, other[key]) for key, value in one.items()]
    assert all(same) is not planted


def test_its_reads_have_all_of_their_noise_and_come_first(run_tiny: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[str] = []
    drawn = DPPrivateData.drawn

    def noted(self: DPPrivateData, kind: Any, total: Any) -> Any:
        kinds.append(kind)
        return drawn(self, kind, total)

    monkeypatch.setattr(DPPrivateData, "drawn", noted)
    run = run_tiny(*LMO, "federation.rounds=2")
    assert kinds == ["meta", "feature", "gradient"] * 8
    plan = plan_for(run.config)
    q = run.config.privacy.sample_rate
    assert plan.sigma_meta == plan.sigma_gradient  # of the sum: a site's own part of it is less
    for site in range(4):
        released = Ledger(run.sites / str(site) / "ledger.sqlite").spent("mnist-5k").history
        assert released == plan.history()
        assert released[(plan.sigma_meta, q)] == 2
        assert released[(plan.sigma_gradient / 3**0.5, q, plan.shared)] == 2
    assert plan.price() <= 2


def test_masks_change_nothing(run_tiny: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "noise_source", lambda name: Silent())
    masked = run_tiny(*LMO, "federation.rounds=2", folder=tmp_path / "masked")
    bare = run_tiny(*LMO, "federation.rounds=2", UNMASKED, folder=tmp_path / "bare")
    for name, value in weights(masked).items():
        assert torch.equal(value, weights(bare)[name])


def test_missed_and_lost_rounds() -> None:
    """Lost rounds leave the gradient of the last that was opened; missed ones show their mean."""
    config = tiny_config(*LMO, "federation.rounds=9")
    points = [{"head.bias": torch.tensor([1.0, 2.0]) - step} for step in (0.0, 0.5, 1.5)]
    first = LastOpened.of(config, {}, points[0], 1)
    assert torch.equal(first.gradient["head.bias"], torch.zeros(2))
    second = LastOpened.of(config, first.kept, points[1], 2)
    assert torch.allclose(second.gradient["head.bias"], torch.ones(2))  # .5 by eta .5
    lost = LastOpened.of(config, second.kept, points[1], 3)
    assert torch.allclose(lost.gradient["head.bias"], torch.ones(2))
    missed = LastOpened.of(config, lost.kept, points[2], 5)
    assert torch.allclose(missed.gradient["head.bias"], torch.ones(2))  # 1 by two steps of .5
    assert int(missed.kept[ROUND]) == 5
    assert kept_of(missed.kept | {"source.latents": torch.zeros(1)}).keys() == {ROUND, SEEN + "head.bias", OPENED + "head.bias"}
