"""A deployed site, without its socket: keys that it ignores change nothing, others are held against its owner's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mpssl_fed.config import Config, from_mapping
from mpssl_fed.config.leaves import flat, leaves
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.resident import Resident
from mpssl_fed.deployment.start_site import SiteSettings, check_site
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.privacy.policy import Policy
from tests.real.sites import POLICY, equal, message, tiny, weights

BASE = tiny("federation.local_steps=1")
PRIVATE = {"scope": "end-to-end", "max_epsilon": 20.0, "metrics": []}
SUBJECT = "privacy={epsilon: 2.0, public_size: 100, sample_rate: 0.1, unit: subject}"


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_share(tmp_path_factory.mktemp("data") / "images", BASE, 0)


@pytest.fixture
def ask(tmp_path: Path, listing: Path) -> Any:
    """``ask(config, run, **policy)`` -> weights of a round of a site with that policy."""

    def ask(config: Config, run: str = "run", **more: Any) -> wire.Arrays:
        assert BASE.data.task is not None
        policy = Policy.model_validate(POLICY | more)
        site = Resident(0, tmp_path / "state", OwnData(listing, BASE.data.task.classes, channels=1), policy)
        start = weights(config.model_copy(update={"runtime": BASE.runtime}))
        arrays, _ = wire.unpack(site.train(message(config, start, run=run)), "metrics")
        return arrays

    return ask


IGNORED: list[dict[str, Any]] = [
    {
        "output": {"dir": "/etc", "overwrite": True, "resume": True, "track": ["tensorboard"]},
        "runtime": {"device": "cuda"},
        "data": {
            "name": "cifar10",
            "size": 64,
            "fit": "pad",
            "white_level": 4095,
            "window": {"center": 40, "width": 400},
            "labels_per_class": None,
            "labels_over": "all-sites",
            "label_fraction": 0.5,
            "held_out": "validation",
            "held_out_fraction": 0.9,
            "test_limit": 1,
            "unlabeled": 5,
            "subjects": "parent",
            "download": True,
            "partition": {"name": "dirichlet", "alpha": 9.0, "min_per_site": 7, "options": {"file": "/etc/passwd"}},
        },
        "warm_start": {"steps": 10**9, "batch": 10**9, "lr": 1e30, "class_map": {"a": "b"}, "without": ["a *"]},
        "federation": {
            "sites": 99_999,
            "fraction": 0.01,
            "min_sites": 9,
            "deadline_s": 1e-9,
            "join_deadline_s": 1e9,
            "max_examples": 7,
            "weighting": "equal",
            "eval_every": 77,
            "backend": "ray",
            "strategy": {
                "name": "fedadam",
                "server_lr": 9,
                "beta_1": 0,
                "beta_2": 0,
                "tau": 9,
                "norm_bound": 1e-9,
                "options": {"x": 1},
            },
        },
        "privacy": {"public_size": 3},
    },
    {
        "data": {"labels_per_class": 10**9, "partition": {"name": "quantity", "skew": 9.0}},
        "federation": {"strategy": {"name": "fedavgm", "server_momentum": 0.1}},
    },
    {
        "data": {"partition": {"name": "pathological", "classes_per_site": 1}},
        "federation": {"sites": 9, "strategy": {"name": "krum", "hostile": 3}},
    },
    {"federation": {"strategy": {"name": "fedtrimmedavg", "trim": 0.4}, "workers": 2}},
]


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``more`` in it, section by section; a named part is replaced whole."""
    filled = dict(base)
    for key, value in more.items():
        whole = key in ("strategy", "partition") or not isinstance(value, dict) or not isinstance(base.get(key), dict)
        filled[key] = value if whole else merged(base[key], value)
    return filled


def test_ignored_keys_change_no_bit(ask: Any) -> None:
    """Every key that is marked so is given another value in one of the requests; the weights stay the same."""
    before = ask(BASE)
    plain, changed = flat(BASE.dump(), Config), set()
    for number, more in enumerate(IGNORED):
        config = from_mapping(merged(BASE.dump(), more))
        changed |= {key for key, value in flat(config.dump(), Config).items() if value != plain[key]}
        assert equal(ask(config, f"run{number}"), before)
    assert changed == {leaf.key for leaf in leaves(Config) if leaf.mark.who == "ignored"}


@pytest.mark.parametrize(
    ("override", "policy", "code"),
    [
        ("privacy={epsilon: 2, public_size: 100}", {"unit": "subject"}, "unit"),
        (SUBJECT, {}, "unit"),
        (SUBJECT, {"unit": "subject"}, "unit"),  # agreed, but these images name no subject
        ("privacy={epsilon: 2, public_size: 100, per_unit: loop}", {}, "site-key"),
        ("privacy={epsilon: 2, public_size: 100, clip: {gradient: 0.5}}", {}, "clip"),
        ("model={name: resnet18, trainable: head}", {"max_parameters": 10_000}, "model-size"),  # 5,130 are sent, 11 M computed
        ("optim.lr=1e20", {}, "server-key"),
    ],
)
def test_the_owner_is_asked(ask: Any, override: str, policy: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        ask(tiny(override), **(PRIVATE if override.startswith("privacy") else {}), **policy)
    assert refused.value.code == code


def test_what_an_owner_has_agreed_to_is_trained_so(ask: Any) -> None:
    config = tiny("privacy={epsilon: 2, public_size: 100, sample_rate: 0.1, per_unit: loop, clip: {gradient: 0.5}}")
    settings = {"privacy.per_unit": ["vmap", "loop"], "privacy.clip.gradient": {"min": 0.4, "max": 0.6}}
    trained = ask(config, settings=settings, **PRIVATE)
    assert all(torch.isfinite(torch.from_numpy(value)).all() for value in trained.values())


def test_a_daemon_that_counts_subjects_does_not_start_without_them(tmp_path: Path, listing: Path) -> None:
    """Not in the middle of a round: when the owner looks."""
    assert BASE.data.task is not None
    policy = tmp_path / "policy.yaml"
    settings = SiteSettings("s", 0, listing, BASE.data.task.classes, policy, tmp_path / "state", channels=1, trust_bundles=True)
    policy.write_text(yaml.safe_dump(POLICY | {"unit": "subject"}))
    with pytest.raises(UserError, match=r"policy.yaml: unit=subject, but .*labels.csv names no subject; list the images"):
        check_site(settings)
    rows = listing.read_text().splitlines()
    named = listing.parent / "named.csv"
    named.write_text("\n".join([rows[0] + ",subject", *(f"{row},p{i % 3}" for i, row in enumerate(rows[1:]))]) + "\n")
    kept, data, _ = check_site(SiteSettings(**{**vars(settings), "data": named}))
    assert kept.unit == "subject"
    assert data.images().subjects is not None
