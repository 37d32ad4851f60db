"""Plan, budget and builder agree on what is read, whatever loss or body: what is planned is what is spent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed import registry
from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.site.client import answer_request
from mpssl_fed.federation.site.site import Site
from mpssl_fed.method.losses import FeatureLoss
from mpssl_fed.method.reads import Reads, reads
from mpssl_fed.models import Classifier, Params
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.releases import DPPrivateData
from tests.federation.conftest import tiny_config
from tests.federation.test_privacy import MP_SSL, PRIVACY, ask, history, private_config

NOTHING_MORE = Reads(unsupervised=False, meta=False, feature=False, labels=False)
ALL_OF_LMO = Reads(unsupervised=True, meta=True, feature=True, labels=False)


class Agreement(FeatureLoss):
    """A plug-in's loss on the logits of both views: it trains the head."""

    reaches_head = True

    def __init__(self) -> None:
        super().__init__(lambda weak, strong: F.mse_loss(weak.softmax(1), strong.softmax(1)), additive=True)

    def __call__(self, classifier: Classifier, theta: Params, weak: Tensor, strong: Tensor) -> Tensor:
        return self.compare(classifier.logits(theta, weak), classifier.logits(theta, strong))


class Means(nn.Module):
    """A plug-in's body without a parameter: the mean of each row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 3))


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two parts of another package, found as an installed one's entry points are."""
    points = {
        "mpssl_fed.losses": ("agreement", lambda _method, _classes: Agreement()),
        "mpssl_fed.models": ("row-means", lambda _channels, size, _norm, _pretrained: (Means(), size)),
    }
    found = {group: [SimpleNamespace(name=name, load=lambda part=part: part)] for group, (name, part) in points.items()}
    monkeypatch.setattr(registry, "entry_points", lambda group: found.get(group, []))
    yield
    parts._pattern.cache_clear()


FROZEN: dict[str, tuple[str, ...]] = {
    "head alone": ("model.trainable=head",),
    "no parameters": ("model.name=row-means",),
    "no parameters, ours": ("model.name=hog",),
    "frozen at random": ("model.name=random",),
}
HEAD = ("method.name=null", "method.source=meta-optimised", "method.loss=agreement")


def made(*overrides: str) -> Config:
    return private_config(*overrides)


@pytest.mark.parametrize("body", FROZEN)
@pytest.mark.parametrize(("loss", "expected"), [((), NOTHING_MORE), (HEAD, ALL_OF_LMO)], ids=["features", "head"])
def test_what_is_planned_is_charged_and_read(
    body: str, loss: tuple[str, ...], expected: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name strings a plug-in's loss failed every round, and its body was charged for reads that never happened."""
    config = made(*loss, *FROZEN[body])
    assert reads(config) == expected
    read: list[Kind] = []
    release = DPPrivateData.release

    def noted(self: DPPrivateData, kind: Kind, total: Any) -> Any:
        read.append(kind)
        return release(self, kind, total)

    monkeypatch.setattr(DPPrivateData, "release", noted)
    site, weights = Site(0, tmp_path), None
    for number in (1, 2):
        weights = answer_request(site, ask(config, number, weights)).weights
    plan = plan_for(config)
    assert {one.mechanism.kind: one.steps for one in plan.releases()} == {kind: read.count(kind) for kind in set(read)}
    assert history(tmp_path) == plan.history()
    assert set(read) == ({"gradient", "meta", "feature"} if expected.meta else {"gradient"})


def test_pseudo_labels_that_nothing_uses_are_not_charged() -> None:
    unused = ("method={name: null, source: pseudo-label, loss: scr, batch: 4, buffer: 1}", "model.trainable=head")
    assert reads(made(*unused)) == NOTHING_MORE
    assert [one.mechanism.kind for one in plan_for(made(*unused)).releases()] == ["gradient"]
    used = made("method={name: null, source: pseudo-label, loss: scr, batch: 4, buffer: 1}")
    assert [one.mechanism.kind for one in plan_for(used).releases()] == ["gradient", "pseudo-label"]


def test_the_classifier_at_hand_is_asked_where_there_is_one() -> None:
    config = tiny_config(MP_SSL, PRIVACY)
    assert reads(config).meta
    assert reads(config, trains_body=False) == NOTHING_MORE
    assert parts.initial_classifier(config).trains_body
