"""Deployed sites that share noise, without their sockets: whom an owner trusts, and what their ledgers say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.rehearsal_policy import policy_of
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.federation.server.shared_step import SharedStep
from mpssl_fed.federation.site.opened import kept_of
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.policy import Request, table
from mpssl_fed.privacy.shared.history import Shared
from mpssl_fed.privacy.shared.noise import SharedNoise
from mpssl_fed.secure.epoch import View
from mpssl_fed.secure.member import Answer
from mpssl_fed.secure.opening import open_sum
from tests.deployment.test_sums import FLOOR, SITES, Sites
from tests.federation.hostile_requests import written
from tests.real.sites import message, tiny, weights

SHARED = (
    "federation={sites: 3, rounds: 3, local_steps: 1, aggregation: secure, secure: {slots: 2}}",
    "optim={name: sgd, lr: 0.1, weight_decay: 0}",
    "privacy={trust: sum, epsilon: 1, public_size: 10, sample_rate: 0.2}",
)
SUM = tiny(*SHARED)
TRUSTING: dict[str, Any] = {"scope": "end-to-end", "metrics": [], "trust": "sum", "max_epsilon": 3.0}


class SharedSites(Sites):
    """Daemons whose owners trust sums."""

    sum = SUM
    says: ClassVar[dict[str, Any]] = TRUSTING


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [write_share(tmp_path_factory.mktemp("data") / f"images{i}", SUM, i) for i in range(SITES)]


def sites(folder: Path, listings: list[Path], **says: Any) -> SharedSites:
    kind = type("Says", (SharedSites,), {"says": TRUSTING | says})
    return kind(folder, listings, FLOOR)


def test_the_opened_sum_steps_the_weights_and_each_ledger_says_who_shares(tmp_path: Path, listings: list[Path]) -> None:
    here = sites(tmp_path, listings).exchange()
    masked = {here.places[site]: here.masked(site) for site in here.daemons}
    answers = {here.places[site]: Answer.load(here.say(site, "open", here.opening())) for site in here.daemons}
    view = View(0, "run", 1, (1, 2, 3), (1, 2, 3), here.opening()["request"])
    opened = open_sum(here.epoch, view, sum(masked.values(), np.zeros_like(masked[1])), answers)
    assert int(opened.view(np.int64)[-1]) == 3 * 100  # what the policies declare, whatever the message says
    plan = plan_for(SUM)
    sharing, size = SharedNoise(plan.sigma_gradient, 1.0, 3), len(opened) - 1
    noise = opened.view(np.int64)[:-1].astype(float)
    assert 0.8 < noise.std() / (sharing.std(size) * np.sqrt(3)) < 1.3  # gradients are small beside it
    start = {key: np.asarray(value) for key, value in weights(SUM).items()}
    stepped = SharedStep(SUM).taken({key: torch.from_numpy(value) for key, value in start.items()}, 1, opened)
    assert not isinstance(stepped, str)
    assert all(np.isfinite(value).all() for value in stepped.values())
    for daemon in here.daemons.values():
        privacy = daemon.status()["privacy"]
        assert privacy["releases"] == 1
        assert 0 < privacy["epsilon"] < privacy["epsilon_alone"]
        assert next(iter(daemon._ledger.spent("digits").history))[2] == Shared(3, 0, 3)


def test_an_owner_who_trusts_no_sum_takes_no_part(tmp_path: Path, listings: list[Path]) -> None:
    here = sites(tmp_path, listings, trust="site")
    with pytest.raises(Refusal, match="trust"):
        here.say(0, "hello")
    with pytest.raises(Refusal, match="trust"):
        here.daemons[0].train(message(SUM, weights(SUM), 1, run_id="run"))
    assert not list(tmp_path.rglob("ledger*"))


def test_a_plan_that_counts_on_more_sites_than_an_owner_believes_in_is_refused_at_once(
    tmp_path: Path, listings: list[Path]
) -> None:
    """Not when keys have been exchanged, so that the others wait for its vector in vain."""
    wary = type("Wary", (SharedSites,), {"says": TRUSTING})(tmp_path, listings, FLOOR | {"colluding": 1})
    with pytest.raises(Refusal, match="trust"):
        wary.say(0, "hello")
    policy = wary.daemons[0].policy
    assert policy is not None
    row = next(one for one in table(policy, Request.of(SUM)) if one.key == "honest sites of a sum")
    assert (row.asked, row.accepted, row.verdict) == (3, "0 to 2", "refused")
    lower = type("Lower", (SharedSites,), {"sum": tiny(*SHARED, "federation.secure.colluding=1")})
    assert lower(tmp_path / "lower", listings, FLOOR | {"colluding": 1}).exchange().masked(0).size


def test_sums_without_masks_and_rounds_in_clear_are_refused(tmp_path: Path, listings: list[Path]) -> None:
    here = sites(tmp_path, listings)
    bare = tiny(*SHARED, "federation.secure.masks=false")
    with pytest.raises(Refusal, match="site-key"):
        here.daemons[0].train(message(bare, weights(bare), 1, run_id="run"))
    with pytest.raises(Refusal, match="plan"):
        here.daemons[0].train(message(SUM, weights(SUM), 1, run_id="run"))
    assert here.daemons[0].status()["privacy"]["releases"] == 0


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"privacy.clip.gradient": 1e-30}, "config"),
    ({"privacy.clip.gradient": 1e30}, "config"),
    ({"privacy.clip.gradient": 0.5}, "clip"),
    ({"privacy.epsilon": 5.0}, "epsilon"),
    ({"privacy.epsilon": 1e-3}, "plan"),  # noise beyond 2^24 grid units
    ({"privacy.delta": 1e-4}, "delta"),
    ({"privacy.delta": 1e-14}, "plan"),  # what is set aside does not pay for the rounding
    ({"privacy.sample_rate": 0.5}, "sample-rate"),
    ({"privacy.noise": "fast"}, "noise"),
    ({"privacy.scope": "labelled-step"}, "config"),
    ({"privacy.scope": "off"}, "scope"),
    ({"federation.local_steps": 2}, "config"),
    ({"federation.weighting": "equal"}, "config"),
    ({"federation.aggregation": "plain"}, "config"),
    ({"federation.strategy.name": "krum"}, "config"),
    ({"federation.strategy.norm_bound": 1.0}, "config"),
    ({"federation.secure.masks": False}, "site-key"),
    ({"federation.secure.neighbours": "few"}, "config"),
    ({"federation.secure.colluding": 2}, "config"),
    ({"federation.secure.min_sites": 4}, "config"),
    ({"optim.name": "momentum"}, "config"),
    ({"optim.name": "adamw"}, "config"),
    ({"optim.weight_decay": 0.1}, "config"),
    ({"optim.lr": 1e20}, "server-key"),
    ({"method.name": "mp-ssl"}, "method"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, listings: list[Path]) -> SharedSites:
    """Sites of which the first has answered round 1 of two slots."""
    here = sites(tmp_path_factory.mktemp("begun"), listings).exchange()
    here.masked(0)
    return here


@pytest.mark.parametrize(("changes", "code"), HOSTILE, ids=lambda case: str(case)[:60])
def test_a_hostile_server_gets_a_code_and_no_release(changes: dict[str, Any], code: str, begun: SharedSites) -> None:
    """Asked in clear or for a sum, in a run of its own or in the middle of an honest one."""
    here = begun
    text = written(json.loads(for_sites(SUM).canonical_json()), changes)
    header = {"config": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    for run, task in (("other", ""), ("run", here.task(0, 1))):
        with pytest.raises(Refusal) as refused:
            here.daemons[0].train(message(SUM, weights(SUM), 2, run_id=run, secure=task, **header))
        assert refused.value.code == code
    assert here.daemons[0].status()["privacy"]["releases"] == 1


def test_what_could_not_be_sent_is_not_charged(tmp_path: Path, listings: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lets a site weigh less than its public size, or whose noise is beyond the integers'."""
    small = tiny(*SHARED, "federation.max_examples=99")
    here = type("Small", (SharedSites,), {"sum": small})(tmp_path / "small", listings, FLOOR).exchange()
    with pytest.raises(Refusal, match="size"):
        here.masked(0)
    loud = sites(tmp_path / "loud", listings).exchange()
    monkeypatch.setattr("mpssl_fed.privacy.shared.noise.MOST_STD", 2.0**21)
    with pytest.raises(Refusal, match="plan"):
        loud.masked(0)
    for one in (here, loud):
        assert one.daemons[0].status()["privacy"]["releases"] == 0


@pytest.mark.parametrize(
    "override",
    ["privacy.epsilon=0.99", "privacy.sample_rate=0.1", "federation.secure.min_sites=2", "federation.secure.slots=1"],
)
def test_a_run_goes_on_under_its_own_terms_alone(override: str, tmp_path: Path, listings: list[Path]) -> None:
    here, other = sites(tmp_path, listings).exchange(), tiny(*SHARED, override)
    here.masked(0)
    with pytest.raises(Refusal, match="plan"):
        here.masked(0, 2, slot=1, config=other)
    with pytest.raises(Refusal, match="secure-terms"):
        here.say(0, "open", here.opening(), config=other)
    here.sum = other  # and new keys, as after a resumption
    with pytest.raises(Refusal, match="plan"):
        here.exchange().masked(0, 2, config=other)
    assert here.daemons[0].status()["privacy"]["releases"] == 1


def test_what_is_left_if_no_other_site_is_honest_has_its_own_budget(tmp_path: Path, listings: list[Path]) -> None:
    alone = plan_for(SUM).price_alone()
    assert alone > 1.2
    capped = sites(tmp_path / "capped", listings, max_epsilon_alone=1.1).exchange()
    with pytest.raises(Refusal, match="budget"):
        capped.masked(0)
    assert sites(tmp_path / "free", listings, max_epsilon_alone=20).exchange().masked(0).size


def test_a_round_goes_on_as_planned_and_is_never_masked_twice(tmp_path: Path, listings: list[Path]) -> None:
    here = sites(tmp_path, listings).exchange()
    first = here.masked(0)
    assert np.array_equal(here.masked(0), first)  # stored, and not charged again
    assert here.daemons[0].status()["privacy"]["releases"] == 1
    here.masked(0, 2, slot=1)
    assert here.daemons[0].status()["privacy"]["releases"] == 2
    with pytest.raises(Refusal, match="secure-closed"):
        here.masked(0, 1, slot=1)


def test_a_head_is_summed_alone_though_its_warm_body_travels(tmp_path: Path, listings: list[Path]) -> None:
    """What leaves has an integer for each entry that is trained, not for each that the message brings."""
    head = tiny(*SHARED, "model.trainable=head", "warm_start={part: both, steps: 1}", "generator.name=glyphs-digits")
    kind = type("Heads", (SharedSites,), {"sum": head, "says": policy_of(head)})
    here = kind(tmp_path, listings, FLOOR).exchange()
    trained = parts.initial_classifier(head).theta()
    assert set(trained) < set(weights(head))
    assert here.masked(0).size == 1 + sum(value.numel() for value in trained.values())


def test_meta_optimised_latents_learn_at_a_daemon_that_shares_noise(tmp_path: Path, listings: list[Path]) -> None:
    """Two rounds: their reads are charged beside the shared one, and what is looked ahead along is kept from the first."""
    learning = tiny(*SHARED, "method={name: mp-ssl, warmup: 0, lmo_every: 1, lmo_batch: 4, batch: 4, buffer: 1}")
    kind = type("Learning", (SharedSites,), {"sum": learning, "says": policy_of(learning)})
    here = kind(tmp_path, listings, FLOOR).exchange()
    here.masked(0)
    here.masked(0, 2, slot=1)
    spent = here.daemons[0]._ledger.spent(here.daemons[0].policy.dataset).history
    assert sorted((len(key), n) for key, n in spent.items()) == [(2, 2), (2, 2), (3, 2)]
    state = SiteState(here.daemons[0].site.folder)
    after, again = kept_of(state._part("run", 1, "after/")), kept_of(state.before("run", 2) or {})
    assert {key.split(".")[1] for key in after} == {"round", "seen", "opened"}
    assert after.keys() == again.keys()  # the second round asked anew looks ahead along the same
    assert all(torch.equal(value, again[key]) for key, value in after.items())
