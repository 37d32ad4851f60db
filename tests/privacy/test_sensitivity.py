"""Whatever weights a server sends, one unit moves each sum by no more than the release claims, and no other unit's part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.codes import Code
from mpssl_fed.config import from_mapping
from mpssl_fed.config.federation import CLIP_RANGE
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.models import Architecture, Classifier
from mpssl_fed.privacy.policy import Policy, Request, decide
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.units import per_unit
from mpssl_fed.privacy.units.places import places
from tests.privacy.crafted_weights import CASES, Crafted
from tests.privacy.release_cases import KINDS, SETTINGS, Still, answer, classifier, clipped_sum, digits, fixed, make, middle

SIDE, N = 16, 7
CLIPS = {"clip_gradient": CLIP_RANGE[0], "clip_meta": 0.3, "clip_feature": CLIP_RANGE[1]}
OF_UNIT: dict[str, tuple[str, ...]] = {"image": (), "subject": ("a", "b", "b", "b", "c", "d", "e")}


def images(unit: str = "image") -> Images:
    return replace(middle(digits(N), SIDE), subjects=OF_UNIT[unit] or None)


def site(model: Classifier, unit: str = "image", **changes: Any) -> DPPrivateData:
    settings = {"meta_params": "all", "max_physical_batch": 3, "unit": unit, **CLIPS, **changes}
    return make(images(unit), noise=Still(), model=model, **settings)


def crafted(case: Crafted) -> Classifier:
    return case.build(images().floats())


def singles(private: DPPrivateData, kind: Any) -> list[Tensor]:
    """What each unit adds alone."""
    return [clipped_sum(private, kind, [unit]) for unit in range(len(private.units))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_unit_moves_no_sum_by_more_than_the_release_claims(case: Crafted) -> None:
    """Measured in float64, whose difference is exact here; on the way, that a sum is exactly that of its units."""
    private = site(crafted(case))
    for kind in KINDS:
        claimed = private.settings.mechanism(kind).sensitivity
        whole = clipped_sum(private, kind, range(N))
        assert torch.isfinite(whole).all()
        for left_out in (0, 6):
            others = clipped_sum(private, kind, [u for u in range(N) if u != left_out])
            moved = whole - others
            assert float(moved.norm()) <= claimed, f"{kind}: a unit moves the sum by {float(moved.norm())} of {claimed}"
            assert torch.equal(moved, clipped_sum(private, kind, [left_out])), f"{kind}: other units' parts moved"


BATCHES: list[Sequence[int]] = [range(7), range(6, 0, -1), (6,), (6, 0), (0, 6), (2, 5, 6), (1, 6, 3, 4), (5, 3, 3, 6, 3), ()]
AMPLIFIED = [case for case in CASES if "amplified" in case.name]


@pytest.mark.parametrize("backend", ["layers", "vmap", "loop"])
@pytest.mark.parametrize("unit", ["image", "subject"])
@pytest.mark.parametrize("case", [AMPLIFIED[2], AMPLIFIED[6], AMPLIFIED[9]], ids=lambda case: case.name)
def test_a_units_part_does_not_depend_on_what_is_drawn_beside_it(case: Crafted, unit: str, backend: str) -> None:
    private = site(crafted(case), unit, backend=backend)
    for kind in KINDS:
        own = singles(private, kind)
        for units in BATCHES:
            batch = [u % len(own) for u in units]
            expected = torch.stack([own[u] for u in batch]).sum(0) if batch else torch.zeros_like(own[0])
            assert torch.equal(clipped_sum(private, kind, batch), expected), f"{kind}, units {batch}"


def test_amplified_weights_do_amplify() -> None:
    """One bit of a pixel, of 24, turns a contribution round: so the tests above would see any other path of computation."""
    turned = []
    for case in AMPLIFIED:
        private = site(crafted(case))
        before = clipped_sum(private, "gradient", [6])
        private.x = torch.nextafter(private.x, torch.full_like(private.x, 2.0))
        turned.append(float((clipped_sum(private, "gradient", [6]) - before).norm()) > CLIPS["clip_gradient"] / 2)
    assert sum(turned) >= 4, turned


def test_pseudo_labels_do_not_depend_on_the_batch_either() -> None:
    foundation = classifier("small-cnn", SIDE)
    private = site(classifier("small-cnn", SIDE), sigma_pseudo_label=10.0)
    own = [private.label_sum(foundation, [unit])[0] for unit in private.units]
    for batch in BATCHES[:-1]:
        found = private.label_sum(foundation, [private.units[u] for u in batch])[0]
        assert torch.equal(found, torch.stack([own[u] for u in batch]).sum(0))
        assert float(found.sum()) == pytest.approx(len(batch), rel=1e-4)


def test_a_call_takes_no_more_images_than_are_computed_alike() -> None:
    """Where the places of a batch differ, fewer are taken; a result that tells nothing counts as different."""
    known: dict[Any, int] = {}

    def compute(limit: int) -> Any:
        return lambda m: [[torch.where(torch.arange(m) < limit, 1.0, 1.0 + 1e-7)]]

    assert places(known, "all alike", 32, compute(32)) == 32
    assert places(known, "the last differ", 32, compute(9)) == 8
    assert places(known, "no two alike", 5, compute(1)) == 1
    assert places(known, "zeros", 8, lambda m: [[torch.zeros(m)]]) == 1
    assert places(known, "NaN", 8, lambda m: [[torch.full((m, 2), torch.nan)]]) == 1


def test_batches_that_are_not_alike_in_every_place_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with two threads and five images on some machines: whatever was drawn, the loop is taken."""
    honest = site(crafted(AMPLIFIED[6]))
    expected = singles(site(honest.classifier, backend="loop"), "gradient")
    monkeypatch.setattr(per_unit, "places", lambda known, key, most, compute: 1)
    found = singles(honest, "gradient")
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("entry", range(3))
def test_one_bit_of_one_logit_in_one_place_is_seen(entry: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the last row of a product is added up in another order: a gradient at the trial's weights mostly hides it."""

    def turned(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        off = torch.zeros_like(out)
        off[-1, entry] = torch.finfo(out.dtype).eps if len(out) > 1 else 0
        return out + (out * off).detach()

    monkeypatch.setattr(per_unit, "_networks", {})
    private = site(crafted(AMPLIFIED[6]))
    private.classifier.head.register_forward_hook(turned)
    own = singles(private, "gradient")
    assert torch.equal(clipped_sum(private, "gradient", range(N)), torch.stack(own).sum(0))
    assert [m for key, m in per_unit._networks.items() if "gradient" in key[0] and key[0][0] != "mixed"] == [1]


class Guarded(nn.Module):
    """One scale for the whole batch, but only where an activation is above 4: at random weights nobody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(SIDE, 8)

    def forward(self, x: Tensor) -> Tensor:
        out = self.lin(x.mean((1, 2)))
        return out / out.abs().max().clamp_min(4)


@pytest.mark.parametrize("backend", ["layers", "vmap", "loop"])
def test_a_network_that_mixes_images_is_given_them_one_by_one(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it, and whatever weights bring it out."""
    monkeypatch.setattr(per_unit, "_networks", {})
    model = Classifier(Guarded(), 8, Architecture("test/guarded", tuple("0123456789"), 1, SIDE))
    with torch.no_grad():
        model.body.get_parameter("lin.weight").mul_(100)
    private = site(model, backend=backend)
    private.x[2] *= -3
    for kind in KINDS:
        assert torch.equal(clipped_sum(private, kind, range(N)), torch.stack(singles(private, kind)).sum(0)), kind


class Dropping(nn.Module):
    """Dropout that no module of torch's shows."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(SIDE, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(torch.tanh(self.lin(x.mean((1, 2)))), 0.5, self.training)


def test_a_network_with_dropout_is_refused() -> None:
    """Its masks come one after the other from a generator of the process: one unit more gives all later ones other masks."""
    model = Classifier(Dropping(), 8, Architecture("test/dropping", tuple("0123456789"), 1, SIDE))
    with pytest.raises(UserError, match=r"model\.name=test/dropping draws random numbers"):
        site(model)
    site(model.train(False))


def test_the_clip_of_1e_30_that_once_let_images_through_is_refused_everywhere() -> None:
    for key in ("gradient", "meta", "feature"):
        for value in (1e-30, 9e-4, 1.1e3, 1e30):
            with pytest.raises(UserError, match=rf"privacy\.clip\.{key}"):
                from_mapping({"privacy": {"epsilon": 1.0, "public_size": 100, "clip": {key: value}}})
            with pytest.raises(ValueError, match=re.escape(f"clip_{key}={value}")):
                replace(SETTINGS, **{f"clip_{key}": value})
    owner = {"dataset": "chest", "public_size": 1000, "max_epsilon": 3.0, "delta": 1e-5}
    for limits in ({"max_clip": 1e4}, {"min_clip": 1e-30}):
        with pytest.raises(ValueError, match=next(iter(limits))):
            Policy.model_validate({**owner, **limits})
    small = from_mapping({"privacy": {"epsilon": 1.0, "public_size": 100, "delta": 1e-5, "clip": {"meta": 0.01}}})
    assert Code.CLIP in decide(Policy.model_validate({**owner, "min_clip": 0.1}), Request.of(small)).codes
    assert Code.CLIP in decide(Policy.model_validate(owner), Request.of(small)).codes  # the installed default alone
    assert Code.CLIP not in decide(Policy.model_validate({**owner, "min_clip": 0.01, "max_clip": 1.0}), Request.of(small)).codes
    with pytest.raises(ValueError, match="sensitivity"):
        replace(SETTINGS.mechanisms()["gradient"], sensitivity=1e-30)


def test_even_at_that_clip_nothing_but_noise_would_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack itself: a linear model, head.bias [55, 0], a clip of 1e-30. Gradients of 1e-24 times the image, whose float32
    squares are 0, passed unclipped beside noise of 1e-30: the release was the image."""
    monkeypatch.setattr("mpssl_fed.privacy.mechanism.CLIP_RANGE", (0.0, 1e3))
    data = middle(digits(1), SIDE)
    attack = next(case for case in CASES if case.name == "linear, bias (55.0, 0.0)")
    model = classifier("pixels", SIDE)
    with torch.no_grad():
        attack.edit(dict(model.named_parameters()), torch.zeros(1))
    private = make(data, model=model, q=1.0, clip_gradient=1e-30, public_size=10)
    private.y.fill_(0)
    assert float(clipped_sum(private, "gradient", [0]).norm()) <= 1e-30
    seen = answer(private, "gradient")[: 2 * SIDE * SIDE].view(2, -1)
    image = private.x.flatten().double()
    correlation = torch.corrcoef(torch.stack([seen[1], image]))[0, 1]
    assert abs(float(correlation)) < 0.4  # 0.06 is one standard deviation of chance; the attack had 0.96


@pytest.mark.parametrize("values", [(55.0, 0.0), (103.0, 0.0), (0.0, 0.0)])
def test_at_the_least_clip_a_site_accepts_no_image_can_be_seen(values: tuple[float, float]) -> None:
    """The attack with all that a policy could permit: the least clip, the least noise, six rounds put together."""
    noise, clip = Policy.model_fields["min_sigma"].default, CLIP_RANGE[0]
    case = next(case for case in CASES if case.name == f"linear, bias {values}")
    data = middle(digits(10), SIDE)

    def seen(source: Any, **changes: Any) -> float:
        """Largest correlation of what came out, of six rounds together, with an image."""
        private = make(data, noise=source, model=case.build(data.floats()), clip_gradient=clip, public_size=10, **changes)
        private.y.fill_(0)
        out = sum(answer(private, "gradient") for _ in range(6))[SIDE * SIDE : 2 * SIDE * SIDE]
        return float(torch.corrcoef(torch.cat([out[None], private.x.flatten(1).double()]))[0, 1:].abs().max())

    if values == (0.0, 0.0):  # without noise the image is all there is; saturated, its gradient is below the grid
        assert seen(Still([[4]] * 6)) > 0.99
    assert seen(fixed(f"at the least clip {values}"), sigma_gradient=noise, q=0.2) < 0.4  # of chance: 0.06


def test_the_attacks_step_is_refused_too() -> None:
    owner = {"dataset": "chest", "public_size": 1000, "max_epsilon": 3.0, "delta": 1e-5}
    for lr, refused in ((1e20, True), (0.1, False)):
        config = from_mapping({"optim": {"name": "sgd", "lr": lr}, "privacy": {"epsilon": 1.0, "public_size": 1000, "delta": 1e-5}})
        decision = decide(Policy.model_validate(owner), Request.of(config))
        assert any("optim.lr" in refusal.text for refusal in decision.refusals) == refused
