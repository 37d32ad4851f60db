"""Runs in which sites share the noise of their gradients: the step of the sum, its noise, and what never leaves a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.data.datasets import Images
from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.write import write_dossier
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import to_error
from mpssl_fed.federation.secure_messages import noise_of, terms_of
from mpssl_fed.federation.site import site as site_module
from mpssl_fed.federation.site.masking import Masking, OnDisk
from mpssl_fed.method.views import Views
from mpssl_fed.privacy import build
from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.noise import FastNoise
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.shared.history import Shared
from mpssl_fed.privacy.shared.noise import SharedNoise
from mpssl_fed.report.run_report import _hidden
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import RunDirectory
from mpssl_fed.secure.member import Member
from mpssl_fed.secure.terms import Floor
from tests.federation.conftest import tiny_config

Runner = Callable[..., RunDirectory]
SHARED = (
    "federation={aggregation: secure, sites: 4, rounds: 1, local_steps: 1, secure: {slots: 2}}",
    "privacy={trust: sum, epsilon: 2, public_size: 10, sample_rate: 0.2, delta: 0.001, noise: fast}",
    "optim={name: sgd, lr: 0.5, weight_decay: 0, warmup_steps: 0, schedule: constant}",
    "data.labels_per_class=4",
    "method.augment=none",
)
UNMASKED = "federation.secure.masks=false"


class Quiet(FastNoise):
    """No noise, and every unit is drawn."""

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        return np.arange(units)

    def add_integers(self, total: NDArray[np.int64], std: float) -> NDArray[np.int64]:
        return total.copy()


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model.safetensors")


def clipped_gradient(classifier: Any, images: Images, clip: float) -> dict[str, torch.Tensor]:
    """Return the sum over images of the clipped gradients of cross entropy, by plain autograd, one image at a time."""
    theta, plain = classifier.theta(), Views(False, classifier.size).plain
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in theta.items()}
    x = plain(images.floats(torch.device("cpu")))
    for image, label in zip(x, images.y, strict=True):
        loss = F.cross_entropy(classifier.logits(theta, image[None]), label[None])
        gradient = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
        norm = torch.sqrt(sum((g.double() ** 2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            total[name] += g.double() * min(1.0, clip / float(norm))
    return total


@pytest.mark.parametrize("masks", [True, False])
def test_without_noise_the_step_is_that_of_all_sites_clipped_gradients(
    masks: bool, run_tiny: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "noise_source", lambda name: Quiet())
    run = run_tiny(*SHARED, *(() if masks else (UNMASKED,)))
    config = run.config
    classifier = parts.initial_classifier(config)
    start = {name: value.clone() for name, value in classifier.shared_state().items()}
    sums = [clipped_gradient(classifier, parts.simulated(config, site).labelled, 1.0) for site in range(4)]
    units = config.privacy.sample_rate * 4 * 10
    found = weights(run)
    moved = 0.0
    for name in classifier.theta():
        step = 0.5 * sum(one[name] for one in sums) / units
        assert torch.allclose(found[name].double(), start[name].double() - step, atol=2e-6)
        moved = max(moved, float(step.abs().max()))
    assert moved > 1e-3
    assert not any(one.failed for one in read_history(run.folder))


def test_masks_change_nothing_and_public_gradients_count_as_in_a_mean(
    run_tiny: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Beside one site's plain step: with all sites alike and every unit drawn, the public gradient is the same in both."""
    monkeypatch.setattr(build, "noise_source", lambda name: Quiet())
    anchored = ("federation.anchor={weight: 1, images: 16}", "method.name=vic-gssl", "federation.rounds=3")
    masked = run_tiny(*SHARED, *anchored, folder=tmp_path / "masked")
    bare = run_tiny(*SHARED, *anchored, UNMASKED, folder=tmp_path / "bare")
    for name, value in weights(masked).items():
        assert torch.equal(value, weights(bare)[name])
    without = run_tiny(*SHARED, "federation.rounds=3", UNMASKED, folder=tmp_path / "without")
    assert any(not torch.equal(value, weights(masked)[name]) for name, value in weights(without).items())


def test_beside_the_sum_the_public_gradient_is_a_mean_over_sites(run_tiny: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no image drawn a round moves along the public gradient alone, as long as each site's would be."""

    class Empty(Quiet):
        def draw(self, units: int, q: float) -> NDArray[np.int64]:
            return np.arange(0)

    monkeypatch.setattr(build, "noise_source", lambda name: Empty())
    run = run_tiny(*SHARED, "method={name: vic-gssl, warmup: 0}", UNMASKED)
    seen = []
    for site in range(4):
        made = parts.simulated(run.config, site)
        learner = site_module.build_site_learner(run.config, made, site)
        seen.append(learner.public_gradient(1)[1])
    start = parts.initial_classifier(run.config).shared_state()
    for name in seen[0]:
        step = 0.5 * torch.stack([one[name].double() for one in seen]).mean(0)
        assert torch.allclose(weights(run)[name].double(), start[name].double() - step, atol=2e-6)


def test_the_noise_of_a_sum_is_that_of_its_sites_together(run_tiny: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is drawn, so that what moves the weights is noise: of the planned size, and of fewer sites that of fewer."""

    class Drawless(FastNoise):
        def draw(self, units: int, q: float) -> NDArray[np.int64]:
            return np.arange(0)

    monkeypatch.setattr(build, "noise_source", lambda name: Drawless())
    run = run_tiny(*SHARED)
    plan = plan_for(run.config)
    assert plan.shared == Shared(3, 0, 4)
    start = parts.initial_classifier(run.config).shared_state()
    noise = np.concatenate([(weights(run)[name] - start[name]).double().numpy().ravel() for name in sorted(start)])
    sharing = SharedNoise(plan.sigma_gradient, 1.0, 3)
    planned = 0.5 * sharing.grid * sharing.std(noise.size) * 2 / (0.2 * 40)  # four sites: sqrt 4 times one's part
    assert abs(noise.std() / planned - 1) < 0.02
    assert sharing.std(noise.size) * sharing.grid < plan.sigma_gradient  # one site's part is less than the plan's noise


def test_ledgers_name_who_shares_and_a_second_run_asks_for_fresh_noise(run_tiny: Runner, tmp_path: Path) -> None:
    run = run_tiny(*SHARED, "federation.rounds=2")
    plan = plan_for(run.config)
    for site in range(4):
        spent = Ledger(run.folder / "sites" / str(site) / "ledger.sqlite").spent("mnist-5k")
        assert spent.history == {(plan.sigma_gradient / np.sqrt(3), 0.2, Shared(3, 0, 4)): 2}
        assert not list((run.folder / "sites" / str(site)).glob("*update*"))
    paper = write_dossier(Subject(run.folder)).markdown.read_text(encoding="utf-8")
    alone = rounded_up(plan.price_alone())
    assert f"| epsilon of the whole run if no other site in the sums is honest | {alone} |" in paper
    assert "that of 3 honest sites in each masked sum" in paper
    again = run_tiny(*SHARED, "federation.rounds=2", folder=tmp_path / "again")
    assert any(not torch.equal(value, weights(again)[name]) for name, value in weights(run).items())


def test_a_round_below_its_fewest_sites_is_lost_and_stays_charged(run_tiny: Runner) -> None:
    def two_are_silent(message: Any, context: Any) -> Any:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] > 1:
            return app(message, context).__class__(to_error("busy"), reply_to=message)
        return app(message, context)

    run = run_tiny(*SHARED, UNMASKED, client=two_are_silent)
    assert [one.failed for one in read_history(run.folder)] == [False, True]
    start = parts.initial_classifier(run.config).shared_state()
    assert all(torch.equal(value, start[name]) for name, value in weights(run).items())
    assert sum(Ledger(run.folder / "sites" / "0" / "ledger.sqlite").spent("mnist-5k").history.values()) == 1


def test_a_site_asks_for_its_own_release_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a learner that takes the local release (a), whose noise is too little, for its step or look-ahead."""
    config = tiny_config(*SHARED)
    made = parts.simulated(config, 0)
    plan = plan_for(config)
    private = build.releases(config, made, plan, lambda *_: None, FastNoise())
    with pytest.raises(RuntimeError, match="in a sum alone"):
        private.supervised_gradient(made.classifier.theta())
    learner = site_module.build_site_learner(config, made, 0, private)
    with pytest.raises(RuntimeError, match="in a sum alone"):
        learner.train(1)


def test_what_is_masked_is_the_very_integers_that_the_noise_came_last_to(run_tiny: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted faults would be clipping, scaling or rounding after the noise: what enters the masks is compared bit by bit."""
    noised: list[bytes] = []
    masked: list[bytes] = []

    class Spied(FastNoise):
        def add_integers(self, total: NDArray[np.int64], std: float) -> NDArray[np.int64]:
            out = super().add_integers(total, std)
            noised.append(out.tobytes())
            return out

    def spy(self: Member, slot: int, participants: Any, request: str, when: Any, vector: NDArray[np.uint64]) -> Any:
        masked.append(vector[:-1].tobytes())
        assert vector[-1] == 10  # the public size
        return original(self, slot, participants, request, when, vector)

    original = Member.mask
    monkeypatch.setattr(build, "noise_source", lambda name: Spied())
    monkeypatch.setattr(Member, "mask", spy)
    run_tiny(*SHARED)
    assert len(noised) == 4
    assert noised == masked


def test_grid_and_noise_are_terms_that_all_sign() -> None:
    """The grid alone, a power of two, would let a site count on others that add half of what it does."""
    config = tiny_config(*SHARED)
    terms, noise = terms_of(config), noise_of(config)
    assert noise is not None
    assert (terms.unit, terms.sigma, terms.clip) == (noise.grid, noise.sigma / np.sqrt(3), 1.0)
    less = terms_of(tiny_config(*SHARED, "privacy.epsilon=2.2"))
    assert less.unit == terms.unit
    assert less.text() != terms.text()
    twice = replace(terms, sigma=terms.sigma / 2, clip=2.0)
    assert twice.text() != terms.text()
    plain = terms_of(tiny_config("federation={aggregation: secure, sites: 4}"))
    assert plain.unit == 0
    assert "unit" not in plain.text()


def test_terms_that_leave_fewer_honest_sites_than_the_plan_counts_on_are_declined(
    run_tiny: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A site that fears two colluders raises t for all: of four sites in a sum two are then counted on, not the plan's three."""
    monkeypatch.setattr("mpssl_fed.federation.site.client.simulated_masking", _fearful)
    with pytest.raises(UserError, match="4 secure-terms"):
        run_tiny(*SHARED)
    assert not list(tmp_path.rglob("ledger.sqlite"))  # declined before anything was charged


def _fearful(site: Any) -> Any:
    return Masking(site.folder, OnDisk(site.folder), Floor(4, 2))


@pytest.mark.slow
def test_a_large_fleet_shares_noise_among_few_neighbours(run_tiny: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From 51 sites on; two of them answer nothing. The step is the very one without masks, of the same sites."""

    def two_are_silent(message: Any, context: Any) -> Any:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] < 2:
            return app(message, context).__class__(to_error("busy"), reply_to=message)
        return app(message, context)

    monkeypatch.setattr(build, "noise_source", lambda name: Quiet())
    many = ("federation.sites=52", "data.labels_per_class=1", "federation.secure.min_sites=40", "federation.secure.slots=1")
    few = run_tiny(*SHARED, *many, "federation.secure.neighbours=few", client=two_are_silent, folder=tmp_path / "few")
    bare = run_tiny(*SHARED, *many, UNMASKED, client=two_are_silent, folder=tmp_path / "bare")
    assert [(one.answered, one.failed) for one in read_history(few.folder)[1:]] == [(50, False)]
    assert all(torch.equal(value, weights(bare)[name]) for name, value in weights(few).items())
    spent = Ledger(few.folder / "sites" / "5" / "ledger.sqlite").spent("mnist-5k")
    assert next(iter(spent.history))[2] == Shared(40, 0, 52)


def test_a_report_claims_no_hiding_where_sums_had_no_masks() -> None:
    masked, bare = (tiny_config(*SHARED, *more).dump()["federation"] for more in ((), (UNMASKED,)))
    assert _hidden(masked) == ["the server saw sums of at least 3 sites' updates alone"]
    assert _hidden(bare) == ["sums of integers that masks would hide, without masks"]
