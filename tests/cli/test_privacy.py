from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from mpssl_fed.cli.privacy import app
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.accounting import epsilon, merge

SMALL = ["federation.rounds=2", "federation.local_steps=10"]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_plan_as_json_and_text() -> None:
    result = call("privacy", "plan", "privacy/end-to-end", *SMALL, "--json")
    assert result.exception is None, result.output
    plan = json.loads(result.output)
    assert plan["epsilon"] <= 1
    assert plan["epsilon"] == pytest.approx(epsilon(merge(plan["history"]), plan["delta"]))
    assert "epsilon 1.000 at delta" in call("privacy", "plan", "privacy/end-to-end", *SMALL).output
    text = call("privacy", "plan", "privacy/mp-ssl", *SMALL, "privacy.per_class_gap=true", "--classes", 10).output
    assert "at delta 1e-05 per image" in text
    for part in (
        "every read",
        "gradient",
        "meta",
        "feature",
        "mean of one class",
        "without it epsilon",
        "labelled-step",
        "round 1:",
    ):
        assert part in text
    loose = call("privacy", "plan", "privacy/labelled-step", *SMALL).output
    assert "supervised gradient alone, not LMO" in loose


def test_plan_without_privacy_is_refused() -> None:
    result = call("privacy", "plan", "demo")
    assert isinstance(result.exception, UserError)
    assert "Set privacy.epsilon" in str(result.exception)


def test_policy_check_grants_what_fits_and_says_what_it_did_not_check() -> None:
    result = call("policy", "check", "configs/policies/site.yaml", "privacy/end-to-end", *SMALL)
    assert result.exit_code == 0, result.output
    for part in (
        "granted: dataset digits",
        "generator_public True",
        "sigma ",
        "later runs may follow",
        "not checked here: model size",
    ):
        assert part in result.output


def test_policy_check_names_each_refusal_and_exits_with_1() -> None:
    words = [*SMALL, "privacy.epsilon=50", "federation.rounds=300", "method.name=p-ssl", "model.name=my.module:Net"]
    result = call("policy", "check", "configs/policies/site.yaml", "privacy/end-to-end", *words, "--parameters", 10**9, "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert told["granted"] is None
    assert {"epsilon", "rounds", "method", "path", "model-size"} <= {refusal["code"] for refusal in told["refusals"]}
    assert {row["key"] for row in told["table"]} >= {"seed", "output.dir", "privacy.clip.gradient", "model size"}
    off = call("policy", "check", "configs/policies/site.yaml", "demo")
    assert off.exit_code == 1
    assert "refused (scope)" in off.output


def test_policy_check_shows_what_a_site_takes_and_how_to_agree(tmp_path: Path) -> None:
    """What is refused stands on top, with the lines that an owner who agrees would add; with them the config is taken."""
    rules: dict[str, Any] = yaml.safe_load(Path("configs/policies/site.yaml").read_text())
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({key: value for key, value in rules.items() if not key.endswith("_clip")}))
    words = ["privacy/end-to-end", *SMALL, "privacy.clip.gradient=0.5", "privacy.per_unit=loop", "optim.lr=20", "data.root=/srv"]
    result = call("policy", "check", policy, *words)
    assert result.exit_code == 1
    rows = [line.split()[0] for line in result.output.splitlines() if "refused (" in line and not line.startswith("refused")]
    assert rows == ["optim.lr", "privacy.clip.gradient", "privacy.per_unit"]  # and not data.root: the server keeps it to itself
    assert "output.dir" not in result.output
    assert "output.dir" in call("policy", "check", policy, *words, "--all").output
    agreed = result.output.partition("in place of its key 'settings':\n")[2].partition("not checked")[0]
    assert list(yaml.safe_load(agreed)["settings"]) == ["optim.lr", "privacy.clip.gradient", "privacy.per_unit"]
    old = yaml.safe_load(policy.read_text())
    policy.write_text(yaml.safe_dump(old | yaml.safe_load(agreed)))
    again = call("policy", "check", policy, *words)
    assert again.exit_code == 0, again.output
    assert "granted: dataset digits" in again.output


def test_policy_check_says_that_no_noise_would_do() -> None:
    """A plan that cannot be solved is a refusal beside the others, not the end of the command."""
    result = call("policy", "check", "configs/policies/site.yaml", "privacy/end-to-end", *SMALL, "privacy.epsilon=1e-9")
    assert result.exit_code == 1
    assert "refused (epsilon)" in result.output


def test_policy_check_tells_when_a_run_would_take_the_whole_budget(tmp_path: Path) -> None:
    rules: dict[str, Any] = yaml.safe_load(Path("configs/policies/site.yaml").read_text())
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(rules | {"max_epsilon": 1}))
    assert "whole lifetime budget" in call("policy", "check", policy, "privacy/end-to-end", *SMALL).output
    policy.write_text(yaml.safe_dump(rules | {"scope": "off"}))
    assert "protects no image" in call("policy", "check", policy, "demo").output
