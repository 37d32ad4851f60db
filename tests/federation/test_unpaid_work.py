"""What a site does before anybody pays: a refusal composes no noise numerically and builds no learner.

Numerical compositions are counted, each of which may take seconds; nothing here goes by the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mpssl_fed.config import Config
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.resident import Resident
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site import site as site_module
from mpssl_fed.federation.site.budget import Budget, policy_budget, refuse_hopeless
from mpssl_fed.privacy import accounting, plan
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.policy import Policy
from tests.federation.test_privacy import private_config
from tests.federation.test_privacy_policy import POLICY
from tests.real.sites import POLICY as FIELDS
from tests.real.sites import message, tiny, weights

WIDE = POLICY.model_copy(
    update={
        "max_epsilon": 100.0,
        "max_rounds": 1000,
        "max_local_steps": 1000,
        "max_steps": 100_000,
        "delta": 1e-3,
        "min_sigma": 0.2,
    }
)
CORNERS = [
    {"privacy.sample_rate": 0.2, "federation.rounds": 100, "federation.local_steps": 1000, "privacy.epsilon": 100},
    {"privacy.sample_rate": 0.2, "federation.rounds": 1000, "federation.local_steps": 100, "privacy.epsilon": 0.05},
    {"privacy.sample_rate": 1e-4, "federation.rounds": 1, "federation.local_steps": 1, "privacy.epsilon": 0.05},
]
"""Plans whose noise takes up to a minute of a processor to solve: ten compositions and more on millions of points."""


def corner(**changes: Any) -> Config:
    return private_config(*(f"{key}={value}" for key, value in changes.items()))


def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[object]:
    """Return the list to which each call of a module's function adds its arguments; the function does what it did."""
    calls: list[object] = []
    real = getattr(module, name)

    def call(*asked: Any) -> Any:
        calls.append(asked)
        return real(*asked)

    monkeypatch.setattr(module, name, call)
    return calls


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was composed numerically so far; nothing is remembered from before."""
    for cache in (accounting._trajectory, plan._solved, plan._bounded):
        cache.cache_clear()
    return counted(monkeypatch, accounting, "_discretise")


def spend(path: Path, runs: int) -> Budget:
    """Take ``runs`` small runs out of the budget of WIDE, each of the same plan."""
    budget = policy_budget(WIDE, corner(**{"privacy.epsilon": 8, "federation.local_steps": 1}), path)
    assert isinstance(budget, Budget)
    images = parts.dataset(private_config()).train.take(range(3))
    for number in range(runs):
        budget.reserve(f"run{number}", 1, True, images)
    return budget


@pytest.mark.parametrize("changes", CORNERS, ids=lambda changes: f"epsilon {changes['privacy.epsilon']}")
def test_what_cannot_fit_is_refused_without_composing_anything(
    changes: dict[str, Any], tmp_path: Path, composed: list[object]
) -> None:
    path, config = tmp_path / "ledger.sqlite", corner(**changes)
    spend(path, 3)
    composed.clear()
    tight = WIDE.model_copy(update={"max_epsilon": max(0.06, config.privacy.epsilon or 0.0)})
    with pytest.raises(Refusal, match="budget"):
        refuse_hopeless(tight, config, path, "another")
    with pytest.raises(Refusal, match="plan"):  # a run on record asks for another plan than it committed to
        refuse_hopeless(WIDE, config, path, "run0")
    if changes["privacy.epsilon"] == 100:
        with pytest.raises(Refusal, match="sigma"):
            refuse_hopeless(WIDE.model_copy(update={"min_sigma": 100.0}), config, tmp_path / "none.sqlite", "first")
    assert not composed
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize("changes", [
    {}, {"privacy.epsilon": 0.5}, {"privacy.epsilon": 40}, {"privacy.sample_rate": 0.02, "method.name": "mp-ssl"},
    {"federation.local_steps": 30, "privacy.sigma_feature_ratio": 0.5},
])  # fmt: skip
def test_the_quick_sigma_is_never_below_the_solved_one(changes: dict[str, Any], tmp_path: Path) -> None:
    """So a plan is refused quickly only where it would be in the end."""
    config = corner(**changes)
    rough, solved = plan_for(config, rough=True), plan_for(config)
    for kind, mechanism in rough.mechanisms().items():
        assert mechanism.sigma >= solved.mechanisms()[kind].sigma
    assert rough.price() <= solved.epsilon


def test_what_is_admitted_in_the_end_is_not_refused_before(tmp_path: Path) -> None:
    """Runs until nothing fits: the quick look lets every one of them pass, and every round of one on record."""
    path, config = tmp_path / "ledger.sqlite", corner(**{"privacy.epsilon": 2})
    budget = policy_budget(POLICY, config, path)
    assert isinstance(budget, Budget)
    images, runs = parts.dataset(config).train.take(range(3)), 0
    codes: set[str | None] = {None}
    while codes == {None}:
        for turn in (1, 2):
            asked = (f"run{runs}", turn, turn == 1)
            quick, foreseen = _code(refuse_hopeless, POLICY, config, path, asked[0]), _code(budget.foresee, *asked)
            before = path.read_bytes() if path.exists() else b""
            codes = {_code(budget.reserve, *asked, images)}
            assert quick in (None, *codes)
            assert {foreseen} == codes
        runs += 1
    assert codes == {"budget"}
    assert path.read_bytes() == before
    assert runs >= 3
    assert _code(budget.foresee, "run0", 2, False) == "plan"  # all of its releases are reserved
    assert _code(budget.foresee, "run0", 9, False) == "plan"


def _code(call: Callable[..., object], *words: Any) -> str | None:
    try:
        call(*words)
    except Refusal as refused:
        return refused.code
    return None


PRIVATE = ("privacy={epsilon: 2.0, public_size: 100, sample_rate: 0.1}",)
OTHER = ("privacy={epsilon: 1.9, public_size: 100, sample_rate: 0.1}",)


def test_a_daemon_refuses_before_it_solves_and_builds(
    tmp_path: Path, composed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("federation.local_steps=1", "federation.rounds=3", *PRIVATE)
    assert config.data.task is not None
    data = OwnData(write_share(tmp_path / "images", config, 0), config.data.task.classes, channels=1)
    policy = Policy.model_validate(FIELDS | {"scope": "end-to-end", "max_epsilon": 2.1, "metrics": []})
    daemon = Resident(0, tmp_path / "state", data, policy)
    built = counted(monkeypatch, site_module, "build_site_learner")
    start = weights(config)

    def ask(asked: Config = config, number: int = 2, run: str = "first", moved: float = 0.0) -> None:
        daemon.train(message(asked, {key: value + np.float32(moved) for key, value in start.items()}, number, run=run))

    with pytest.raises(Refusal, match="rounds"):
        ask(number=4)
    with pytest.raises(Refusal, match="misshapen"):
        daemon.train(message(config, {key: value[..., :1] for key, value in start.items()}))
    assert not composed
    assert not built
    ask()
    assert composed
    composed.clear()
    with pytest.raises(Refusal, match="budget"):  # the first run has taken all of it
        ask(run="second")
    with pytest.raises(Refusal, match="plan"):
        ask(tiny("federation.local_steps=1", "federation.rounds=3", *OTHER))
    ask()  # the stored reply, free
    ask(moved=1e-3)
    ask(moved=2e-3)
    with pytest.raises(Refusal, match="plan"):  # its three rounds are paid and used
        ask(moved=3e-3)
    assert not composed
    assert len(built) == Ledger(tmp_path / "state" / "ledger.sqlite").spent(policy.dataset).runs["first"].rounds == 3
