"""The three releases at their edges: what a site has changes no path, no shape, no number of releases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.method.private_data import ExactPrivateData, LabelledViews
from mpssl_fed.method.validation import Split
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.noise import SecureNoise
from mpssl_fed.privacy.releases import LABEL_ROWS, DPPrivateData, LabelledStepPrivateData
from tests.privacy.release_cases import KINDS, SETTINGS, Still, Watched, ask, classifier, clipped_sum, digits, identity, make


def one_label() -> Images:
    images = digits(200)
    return images.take(torch.nonzero(images.y == 4).flatten())


def many_images_of_one() -> Images:
    return replace(digits(40), subjects=tuple("one" if i < 37 else f"other {i}" for i in range(40)))


SITES: dict[str, tuple[Images, dict[str, Any]]] = {
    "usual": (digits(30), {}),
    "all labels equal": (one_label(), {}),
    "one image": (digits(1), {}),
    "no image": (digits(1).take([]), {}),
    "a subject with many images": (many_images_of_one(), {"unit": "subject"}),
    "per class": (one_label(), {"per_class": True}),
}


def path(private: DPPrivateData, noise: Watched) -> list[Any]:
    """Return the public course of the three releases: kinds, charges, shapes and noise."""
    found: list[Any] = []
    for kind in KINDS:
        given = ask(private, kind)
        values = given.values if kind == "feature" else torch.cat([g.flatten() for g in given.values()])
        assert torch.isfinite(values).all()
        found.append((kind, tuple(values.shape)))
    return [found, private.released, [(std, total.shape) for std, total in noise.releases]]


@pytest.mark.parametrize("site", SITES)
def test_every_site_takes_the_same_path(site: str) -> None:
    images, changes = SITES[site]
    course = path(make(images, noise=(noise := Watched()), q=0.5, **changes), noise)
    public = {key: value for key, value in changes.items() if key == "per_class"}
    usual = path(make(digits(30), noise=(noise := Watched()), q=0.5, **public), noise)
    assert course == usual


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("unit", ["image", "subject"])
def test_an_image_of_any_value_moves_a_release_within_the_bound(value: float, unit: str) -> None:
    images = replace(digits(5), subjects=("a", "b", "c", "c", "d"))
    private, clean = make(images, noise=Still(), unit=unit), make(images, noise=Still(), unit=unit)
    private.x[3] = value
    hit = 2 if unit == "subject" else 3
    units = range(len(private.units))
    for kind in KINDS:
        found = clipped_sum(private, kind, units)
        others = clipped_sum(clean, kind, [u for u in units if u != hit])
        assert torch.isfinite(found).all()
        moved = float((found - others).norm())
        assert moved <= getattr(SETTINGS, f"clip_{kind}") * (1 + 1e-4)
        if value != 1e30:
            assert moved < 1e-5, "a unit that is not finite contributes"


def test_all_units_of_nan_give_the_empty_sum() -> None:
    private = make(digits(4))
    private.x[:] = torch.nan
    for kind in KINDS:
        assert float(clipped_sum(private, kind, range(4)).abs().max()) == 0
        assert torch.equal(clipped_sum(private, kind, range(4)), clipped_sum(private, kind, []))


def test_an_empty_draw_still_releases_noise() -> None:
    noise = Watched()
    private = make(digits(5), noise=noise, q=1e-9)
    gradient = private.supervised_gradient(private.classifier.theta())
    assert noise.draws == [()]
    # noise on a grid is zero now and then
    assert all(float((g == 0).double().mean()) < 0.5 for g in gradient.values())


def test_without_noise_an_empty_draw_is_no_update() -> None:
    """A zero update is an update: finite, of the usual shapes, and of no integer."""
    private = make(digits(5), noise=Still([[]]))
    theta = private.classifier.theta()
    gradient = private.supervised_gradient(theta)
    assert all(torch.equal(gradient[name], torch.zeros_like(p)) for name, p in theta.items())
    assert all(value.dtype == torch.float32 for value in private.classifier.shared_state().values())


def test_each_read_is_charged_before_it() -> None:
    """The first read that was not reserved is refused before anything is drawn."""
    noise = Watched()
    left = {(1.5, 0.2): 1, (2.5, 0.2): 1}

    def charge(kind: Kind, sigma: float, q: float) -> None:
        if not left.pop((sigma, q), 0):
            raise RuntimeError(f"'{kind}' is not reserved")

    private = make(digits(20), noise=noise, charge=charge)
    ask(private, "gradient")
    ask(private, "meta")
    for kind in KINDS:
        with pytest.raises(RuntimeError, match=f"'{kind}' is not reserved"):
            ask(private, kind)
    assert len(noise.draws) == len(noise.releases) == len(private.released) == 2
    assert [(m.kind, m.sigma, m.sensitivity, m.q) for m in private.released] == [
        ("gradient", 1.5, 0.7, 0.2),
        ("meta", 2.5, 0.3, 0.2),
    ]
    private.begin_round(torch.Generator(), torch.Generator())
    assert private.released == []


def test_what_is_not_planned_is_not_released() -> None:
    private = make(digits(20), noise=Watched(), sigma_meta=None)
    with pytest.raises(RuntimeError, match="release 'meta' is not in the plan"):
        ask(private, "meta")


def test_public_numbers_are_checked() -> None:
    for changes in ({"sigma_meta": 0.0}, {"clip_feature": float("inf")}, {"q": 0.0}, {"public_size": 0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            replace(SETTINGS, **changes)
    with pytest.raises(UserError, match=r"model\.norm=group"):
        make(digits(3), model=classifier(norm="batch"))


def test_release_b_lives_where_the_settings_say() -> None:
    model = classifier()
    norms = make(digits(3), model=model).meta_keys
    assert sum(model.theta()[key].numel() for key in norms) == 2 * (16 + 32 + 32 + 64 + 64)
    assert make(digits(3), model=model, meta_params="all").meta_keys == [k for k in model.theta() if k.startswith("body.")]
    assert make(digits(3), model=classifier("pixels")).meta_keys == ["head.weight", "head.bias"]


def test_mean_feature_is_that_of_clipped_features() -> None:
    """Without noise, (c) is the mean of the features in the ball that the synthetic ones will be scaled into."""
    images = digits(50)
    for per_class in (False, True):
        private = make(images, noise=Still(), q=1.0, public_size=50, per_class=per_class, clip_feature=3.0)
        theta = private.classifier.theta()
        means = private.mean_feature(theta)
        with torch.no_grad():
            features = private.classifier.features(theta, private.x)
        assert means.clip is not None
        scaled = features * (means.clip / features.norm(dim=1, keepdim=True)).clamp_max(1)
        groups = [scaled[private.y == k] for k in range(10)] if per_class else [scaled]
        expected = torch.stack([group.mean(0) for group in groups])
        assert torch.allclose(means.values[means.present], expected[means.present], rtol=1e-3, atol=1e-4)
        assert means.present.all()


def test_a_count_below_the_floor_is_absent() -> None:
    images = one_label()
    private = make(images, noise=Still(), q=1.0, public_size=len(images), per_class=True)
    assert private.mean_feature(private.classifier.theta()).present.tolist() == [k == 4 for k in range(10)]
    empty = make(images.take([]), noise=Still(), q=1.0).mean_feature(private.classifier.theta())
    assert empty.present.tolist() == [False]
    assert float(empty.values.abs().max()) == 0


class Foundation(nn.Module):
    """Certain of class 2 for dark images, of class 5 for others."""

    def forward(self, x: Tensor) -> Tensor:
        dark = (x.mean((1, 2, 3)) < -0.8).long()
        return nn.functional.one_hot(5 - 3 * dark, 7).float() * 50


def test_foundation_labels_stand_in_the_released_proportions() -> None:
    images = digits(100)
    share = (images.floats().mean((1, 2, 3)) < -0.8).double().mean()
    private = make(images, noise=Still(), sigma_pseudo_label=10.0, public_size=100)
    rows = private.foundation_labels(Foundation())
    assert rows.shape == (LABEL_ROWS, 7)
    assert torch.equal(rows.sum(1), torch.ones(LABEL_ROWS))
    assert rows.mean(0).tolist() == pytest.approx([0, 0, float(share), 0, 0, 1 - float(share), 0], abs=2 / LABEL_ROWS)
    assert private.released[0].q == 1.0
    nothing = make(images.take([]), noise=Still(), sigma_pseudo_label=10.0).foundation_labels(Foundation())
    assert nothing.mean(0).tolist() == pytest.approx([1 / 7] * 7, abs=2 / LABEL_ROWS)


def test_labelled_step_is_a_release_beside_exact_reads() -> None:
    model, images = classifier(), digits(20)
    exact = ExactPrivateData(model, Split.none(images), LabelledViews(lambda x, rng: x, identity), batch_size=20)
    private = LabelledStepPrivateData(make(images, model=model, noise=SecureNoise()), exact)
    private.begin_round(torch.Generator(), torch.Generator())
    theta = model.theta()
    gradient, plain = private.supervised_gradient(theta), exact.supervised_gradient(theta)
    assert not torch.allclose(gradient["head.weight"], plain["head.weight"])
    v, expected = private.validation_gradient(theta), exact.validation_gradient(theta)
    assert all(torch.equal(v[name], expected[name]) for name in expected)
    assert torch.equal(private.mean_feature(theta).values, exact.mean_feature(theta).values)
    assert [m.kind for m in private.released] == ["gradient"]
