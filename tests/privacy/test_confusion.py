"""Release (e), the confusion counts of held-out images: what it adds up, hides, charges and costs; planted faults are caught."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from dp_accounting import dp_event, pld
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpssl_fed.audit.mechanism import audit_release
from mpssl_fed.config import Config, from_mapping
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.accounting import epsilon, merge
from mpssl_fed.privacy.mechanism import Answer, Kind
from mpssl_fed.privacy.noise import FastNoise, Tape
from mpssl_fed.privacy.plan import Plan, plan_for
from mpssl_fed.privacy.releases import DPPrivateData
from tests.privacy.release_cases import SETTINGS, Still, classifier, digits, fixed, make

SIGMA = 3.0
Build = Callable[..., DPPrivateData]
build: Build = partial(make, sigma_confusion=SIGMA, evaluations=1, held_out=0.2)


def table(private: DPPrivateData, units: Sequence[int]) -> Tensor:
    found = private.confusion_sum(private.classifier.theta(), [private.units[i] for i in units])[0]
    return found.double()


def subjects(images: Images, names: Sequence[str]) -> Images:
    return replace(images, subjects=tuple(names))


def check_counts(of: Build) -> None:
    """Without noise the table is that of the plain model, and one image more or less moves one cell by one."""
    images, model = digits(24), classifier()
    private = of(images, noise=Still(), model=model)
    with torch.no_grad():
        named = model(images.floats()).argmax(1)
    expected = torch.zeros(10, 10, dtype=torch.float64)
    for true, said in zip(images.y.tolist(), named.tolist(), strict=True):
        expected[true, said] += 1
    assert torch.allclose(private.confusion(model.theta()).double(), expected, atol=1e-3)
    whole = table(private, range(24))
    for unit in range(24):
        moved = (whole - table(private, [i for i in range(24) if i != unit])).norm()
        assert 0.999 < float(moved) <= 1.0, f"a unit moves the table by {float(moved)}"


def check_noise(of: Build) -> None:
    """A site without images releases noise alone, of just the std that is charged."""
    asked: list[tuple[str, float, float]] = []
    private = of(digits(1).take([]), noise=fixed("confusion"), charge=lambda *one: asked.append(one))
    noise = torch.stack([private.confusion(private.classifier.theta()) for _ in range(40)]).double()
    assert abs(float(noise.std()) / SIGMA - 1) < 7 / math.sqrt(2 * noise.numel())
    assert abs(float(noise.mean())) < 7 * SIGMA / math.sqrt(noise.numel())
    assert asked == [("confusion", SIGMA, 1.0)] * 40, "not every table is charged"


CHECKS = [check_counts, check_noise]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_honest_site_passes(check: Callable[[Build], None]) -> None:
    check(build)


class NoNoise(DPPrivateData):
    """Forgets the noise."""

    def release(self, kind: Kind, total: Callable[[Sequence[Tensor]], list[Tensor]]) -> Answer:
        whole, self.noise = self.noise, Still()  # type: ignore[assignment]
        try:
            return super().release(kind, total)
        finally:
            self.noise = whole


class Twice(DPPrivateData):
    """Counts each image twice, say in a second view."""

    def confusion_sum(self, theta: dict[str, Tensor], batch: Sequence[Tensor]) -> list[Tensor]:
        return super().confusion_sum(theta, [*batch, *batch])


class Uncharged(DPPrivateData):
    """Charges nothing."""

    def release(self, kind: Kind, total: Callable[[Sequence[Tensor]], list[Tensor]]) -> Answer:
        whole, self.charge = self.charge, lambda *_: None
        try:
            return super().release(kind, total)
        finally:
            self.charge = whole


@pytest.mark.parametrize(
    ("fault", "check"), [(NoNoise, check_noise), (Twice, check_counts), (Uncharged, check_noise)], ids=lambda part: part.__name__
)
def test_a_fault_is_caught(fault: type[DPPrivateData], check: Callable[[Build], None]) -> None:
    with pytest.raises(AssertionError):
        check(partial(build, cls=fault))


@given(st.lists(st.sampled_from("abcd"), min_size=12, max_size=12))
@settings(max_examples=15, deadline=None)
def test_a_subject_counts_at_most_one_in_all(names: list[str]) -> None:
    private = build(subjects(digits(12), names), unit="subject", max_physical_batch=5)
    assert len(private.units) == len(set(names))
    for unit in range(len(private.units)):
        alone = table(private, [unit])
        assert float(alone.sum()) == pytest.approx(1, abs=1e-4)
        assert float(alone.norm()) <= 1
    assert float(table(private, range(len(private.units))).sum()) == pytest.approx(len(set(names)), abs=1e-3)


def test_a_table_follows_from_its_images_alone_in_any_order_and_company() -> None:
    private = build(digits(30), max_physical_batch=8)
    rng = np.random.default_rng(0)
    order = rng.permutation(30)
    assert torch.equal(table(private, range(30)), table(private, order))
    assert torch.equal(table(private, order), table(private, order[:11]) + table(private, order[11:]))


def test_replayed_the_table_tells_nothing_of_the_data() -> None:
    tape = Tape(FastNoise())
    one = build(digits(20), noise=tape)
    first = one.confusion(one.classifier.theta())
    other = build(digits(31, start=400), noise=Tape(releases=tape.releases))
    other.x[0], other.x[1, 0, 2, 2] = torch.nan, torch.inf
    assert torch.equal(first, other.confusion(other.classifier.theta()))
    assert not torch.equal(first, build(digits(20)).confusion(one.classifier.theta()))


def test_the_audit_of_releases_knows_it() -> None:
    claimed = epsilon({(SIGMA, 1.0): 1}, 1e-5)
    for cls, passes in ((DPPrivateData, True), (NoNoise, False)):
        found = audit_release(build(digits(4), noise=fixed("audit"), cls=cls), "confusion", claimed, 1e-5, trials=20_000)
        assert found.passed == passes


def test_it_is_in_no_plan_that_does_not_evaluate() -> None:
    private = make(digits(3))
    with pytest.raises(RuntimeError, match="'confusion' is not in the plan"):
        private.confusion(private.classifier.theta())
    with pytest.raises(ValueError, match="evaluations"):
        replace(SETTINGS, evaluations=1)


def config(times: int, scope: str = "end-to-end", method: str = "base") -> Config:
    return from_mapping(
        {
            "method": {"name": method},
            "federation": {"rounds": 6, "local_steps": 20, "evaluate_at_sites": {"times": times}},
            "privacy": {"epsilon": 2.0, "public_size": 1000, "scope": scope},
        }
    )


def googles(history: dict[tuple[float, float], int], delta: float) -> float:
    """Epsilon by Google's dp-accounting, which is told of a table as what it is: a Gaussian of all units, not sampled."""
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    for (sigma, q), n in history.items():
        one = dp_event.GaussianDpEvent(sigma)
        accountant.compose(dp_event.SelfComposedDpEvent(one if q == 1 else dp_event.PoissonSampledDpEvent(q, one), n))
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("times", "scope"), [(1, "end-to-end"), (4, "end-to-end"), (2, "labelled-step")])
def test_epsilon_with_evaluations_is_that_of_dp_accounting(times: int, scope: str) -> None:
    plan = plan_for(config(times, scope))
    assert plan.sigma_confusion == pytest.approx(10 * plan.sigma_gradient, rel=1e-5)
    assert plan.history()[plan.sigma_confusion, 1.0] == times
    assert plan.price() <= 2.0
    theirs = googles(plan.history(), plan.delta)
    assert theirs - 3e-3 <= plan.price() <= theirs + 0.02
    bare = plan_for(config(0, scope))
    assert plan.sigma_gradient > bare.sigma_gradient, "evaluating is not paid for"
    assert googles(replace(plan, sigma_gradient=bare.sigma_gradient).history(), plan.delta) > theirs


def test_a_plan_that_evaluates_nothing_is_the_plan_of_before() -> None:
    plan = plan_for(config(0))
    assert (plan.sigma_confusion, plan.evaluations, plan.held_out) == (None, 0, 0.0)
    assert plan.commitment() != plan_for(config(1)).commitment() != plan_for(config(2)).commitment()
    names = {"sigma_confusion", "evaluations", "held_out"}
    earlier = {key: value for key, value in vars(plan).items() if key not in names}
    assert Plan(**earlier).commitment() == plan.commitment()
    assert plan.mechanisms()["gradient"].denominator == 1000 * 0.02
    assert plan_for(config(1)).mechanisms()["gradient"].denominator == pytest.approx(800 * 0.02)


@given(st.integers(1, 30), st.data())
def test_rounds_and_evaluations_add_up_to_the_plan(rounds: int, data: st.DataObject) -> None:
    times = data.draw(st.integers(1, rounds))
    plan = replace(SETTINGS, rounds=rounds, sigma_confusion=SIGMA, evaluations=times)
    due = [number for number in range(1, rounds + 1) if plan.evaluates(number)]
    assert len(due) == times
    assert due[-1] == rounds
    assert max(np.diff([0, *due])) - min(np.diff([0, *due])) <= 1, "not evenly spaced"
    parts = [plan.round_history(number) for number in range(1, rounds + 1)]
    assert merge(*parts, *(plan.evaluation_history(number) for number in due)) == plan.history()
    for number in {0, rounds + 1, *range(1, rounds + 1)} - {*due}:
        with pytest.raises(UserError, match="no evaluation after round"):
            plan.evaluation_history(number)
