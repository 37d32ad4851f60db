"""The site's policy over a real message: what goes beyond it is refused by a code, and runs add up to a lifetime's budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message

from clients.app import app
from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines.simulation import preflight, simulate
from mpssl_fed.federation.messages import SentConfig, TrainRequest
from mpssl_fed.federation.refusal import Refusal, to_error
from mpssl_fed.federation.site.budget import Budget, policy_budget
from mpssl_fed.federation.weights import to_record
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.policy import Policy
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import open_run
from tests.federation.test_privacy import private_config

POLICY = Policy(
    dataset="chest",
    public_size=50,
    max_epsilon=8,
    delta=1e-4,
    min_sigma=1.0,
    max_sample_rate=1.0,
    max_clip=2,
    max_rounds=4,
    max_local_steps=4,
    methods=("base", "mp-ssl", "vic-gssl"),
    generators=(
        {  # type: ignore[arg-type]
            "name": "glyphs-digits",
            "sha256": "db7b56196dd2d0612aa3cae73a3e5021aa702fa8af6c6b6e13f7c12e668fb85b",
            "trained_on": "digits printed in public fonts",
            "public": True,
        },
    ),
)

REFUSED = {
    "privacy.epsilon=8.5": "epsilon",
    "privacy.sigma_feature_ratio=0.05": "sigma",
    "federation.local_steps=5": "steps",
    "federation.rounds=5": "rounds",
    "privacy.clip.gradient=3": "clip",
    "privacy.noise=fast": "noise",
    "privacy={epsilon: 8, delta: 1.0e-2, public_size: 10, sample_rate: 1.0}": "delta",
    "privacy.scope=labelled-step": "scope",
    "privacy={scope: off}": "scope",
    "method.name=naive-gssl": "method",
    "method.name=ssl-real": "method",
    "generator.name=glyphs-letters": "generator",
    "generator.path=/etc/passwd": "path",
    "data.root=/home": "path",
    "model.pretrained=weights.bin": "path",
    "model.name=evil.module:Model": "path",
    "model.name=timm/hf-hub:owner/network": "path",
    "model.name=timm/../network": "path",
    "model.name=timm/resnet18.a1_in1k": "server-key",
}


def over_the_wire(config: Config) -> Config:
    """Return the config as a site reads it out of a message."""
    record = TrainRequest(SentConfig.of("run1", config), 1, to_record({"head.bias": torch.zeros(2)})).to_record()
    return TrainRequest.from_record(record).config()


@pytest.mark.parametrize("override", REFUSED)
def test_a_message_beyond_the_policy_is_refused_by_its_code(tmp_path: Path, override: str) -> None:
    more = {"method.name=ssl-real": ("method={name: ssl-real}",), "method.name=naive-gssl": ("method={name: naive-gssl}",)}
    config = over_the_wire(private_config(*more.get(override, (override,))))
    with pytest.raises(Refusal) as refused:
        policy_budget(POLICY, config, tmp_path / "ledger.sqlite")
    assert refused.value.code == REFUSED[override]
    assert not (tmp_path / "ledger.sqlite").exists()


def test_what_policies_and_models_differ_in_is_refused_by_its_code(tmp_path: Path) -> None:
    config, path = over_the_wire(private_config()), tmp_path / "ledger.sqlite"
    for code, policy, more in [
        ("no-policy", None, {}),
        ("metric", POLICY, {"metrics": ("loss",)}),
        ("sample-rate", POLICY.model_copy(update={"max_sample_rate": 0.5}), {}),
        ("generator", POLICY, {"generator_sha256": "0" * 64}),
        ("model-size", POLICY.model_copy(update={"max_parameters": 1000}), {"parameters": 1001}),
    ]:
        with pytest.raises(Refusal, match=code):
            policy_budget(policy, config, path, **more)  # type: ignore[arg-type]
    granted = policy_budget(POLICY, config, path, parameters=1000)
    assert isinstance(granted, Budget)
    assert granted.books.dataset == "chest"
    assert granted.plan == plan_for(config)


def test_a_plan_is_made_of_the_sites_size_and_a_delta_it_accepts(tmp_path: Path) -> None:
    config = over_the_wire(private_config("privacy.delta=1e-6"))
    tight = POLICY.model_copy(update={"public_size": 40})
    granted = policy_budget(tight, config, tmp_path / "ledger.sqlite")
    assert isinstance(granted, Budget)
    plan = granted.plan
    assert (plan.delta, plan.public_size) == (1e-6, 40)  # each site's own size; a delta below the policy's as asked
    assert plan.sigma_gradient > plan_for(private_config()).sigma_gradient
    with pytest.raises(Refusal, match="delta"):  # one above it is not lowered in silence
        policy_budget(POLICY.model_copy(update={"delta": 9e-7}), config, tmp_path / "ledger.sqlite")


def test_runs_of_a_deployed_site_add_up_to_its_lifetime_budget(tmp_path: Path) -> None:
    """Two small runs fit into the policy's budget, and at some run nothing does: whichever server asks."""
    config = over_the_wire(private_config("privacy.epsilon=2"))
    budget = policy_budget(POLICY, config, tmp_path / "ledger.sqlite")
    assert isinstance(budget, Budget)
    images, admitted = parts.dataset(config).train.take(range(10)), []

    def run_after_run() -> None:
        for number in range(50):
            for turn in (1, 2):
                budget.reserve(f"run{number}", turn, turn == 1, images)
            admitted.append(number)

    with pytest.raises(Refusal, match="budget"):
        run_after_run()
    assert len(admitted) >= 2
    spent = Ledger(tmp_path / "ledger.sqlite").spent("chest").history
    assert budget.limit.epsilon(spent) <= POLICY.max_epsilon
    assert accounting.rdp_epsilon(spent, POLICY.delta) <= POLICY.max_epsilon


def test_each_site_declines_by_its_own_policy_and_the_server_sees_codes(tmp_path: Path) -> None:
    policies = {0: POLICY, 1: POLICY.model_copy(update={"max_epsilon": 1.0}), 2: None}

    def client(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            site = int(str(context.node_config["partition-id"]))
            try:
                policy_budget(policies[site], TrainRequest.from_record(message.content).config(), tmp_path / "none.sqlite")
            except Refusal as refusal:
                return Message(to_error(refusal.code), reply_to=message)
        return app(message, context)

    run = open_run(private_config(), tmp_path / "run")
    preflight(run.config)
    simulate(run, lambda: client, Progress())  # type: ignore[arg-type,return-value]
    for record in read_history(run.folder)[1:]:
        assert record.answered == 1
        assert record.rejected == {"epsilon": 1, "no-policy": 1}
