from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from mpssl_fed.cli.privacy import app, gap_history
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.accounting import epsilon, merge
from mpssl_fed.privacy.ledger import Ledger

ROUND = {(1.5, 0.02): 12}
SMALL = ["federation.rounds=2", "federation.local_steps=10"]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.create(tmp_path / "site.sqlite")
    plan = {key: 10 * n for key, n in ROUND.items()}
    ledger.begin_run(
        "digits", "run-1", plan={"rounds": 10}, commitment="c", history=plan, scope="end-to-end", judge=lambda spent: "shared"
    )
    ledger.add_records("digits", [b"one", b"two"])
    for number in (1, 2):
        ledger.reserve("digits", "run-1", number, ROUND, lambda spent: None)
    return ledger


def test_plan_as_json_and_text() -> None:
    result = call("privacy", "plan", "privacy/end-to-end", *SMALL, "--json")
    assert result.exception is None, result.output
    plan = json.loads(result.output)
    assert plan["epsilon"] <= 2
    assert plan["epsilon"] == pytest.approx(epsilon(merge(plan["history"]), plan["delta"]))
    text = call("privacy", "plan", "privacy/end-to-end", *SMALL, "privacy.per_class_gap=true", "--classes", 10).output
    assert f"epsilon {plan['epsilon']:.3f} at delta 1e-05 per image" in text
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
    agreed = result.output.partition("to agree, add to the policy:\n")[2].partition("not checked")[0]
    assert list(yaml.safe_load(agreed)["settings"]) == ["optim.lr", "privacy.clip.gradient", "privacy.per_unit"]
    policy.write_text(policy.read_text() + agreed)
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
    policy.write_text(yaml.safe_dump(rules | {"max_epsilon": 2}))
    assert "whole lifetime budget" in call("policy", "check", policy, "privacy/end-to-end", *SMALL).output
    policy.write_text(yaml.safe_dump(rules | {"scope": "off"}))
    assert "protects no image" in call("policy", "check", policy, "demo").output


def test_show_tells_epsilon_runs_and_what_the_life_has_spent(ledger: Ledger) -> None:
    path = ledger.files.database
    spent = epsilon({key: 2 * n for key, n in ROUND.items()}, 1e-5)
    text = call("ledger", "show", path, "--policy", "configs/policies/site.yaml").output
    assert f"digits: epsilon {spent:.3f} at delta 1e-05" in text
    assert "of 4 spent over its life, per image" in text
    assert "run run-1 (end-to-end, shared)" in text
    told = json.loads(call("ledger", "show", path, "--json").output)
    assert told["data_sets"][0]["epsilon"] == pytest.approx(spent)
    assert merge(told["data_sets"][0]["history"]) == {(1.5, 0.02): 24}
    ledger.mark_unaccounted("digits", "x", "scope off")
    text = call("ledger", "show", path).output
    assert "epsilon infinite (accounted part" in text
    assert "unaccounted: run 'x': scope off" in text
    assert json.loads(call("ledger", "show", path, "--json").output)["data_sets"][0]["epsilon"] is None


def test_a_simulated_ledger_gives_no_number_over_runs(tmp_path: Path) -> None:
    simulated = Ledger.create(tmp_path / "s", simulated=True)
    assert "simulated: runs do not compose" in call("ledger", "show", tmp_path / "s").output
    simulated.begin_run("d", "r", plan={}, commitment="c", history=ROUND, scope="end-to-end", judge=lambda spent: "shared")
    simulated.reserve("d", "r", 1, ROUND, lambda spent: None)
    text = call("ledger", "show", tmp_path / "s").output
    assert "d: by run" in text
    assert "run r (end-to-end, shared): epsilon" in text


def test_verify_names_the_error(ledger: Ledger) -> None:
    assert "5 rows, chain and head agree" in call("ledger", "verify", ledger.files.database).output
    ledger.files.head.unlink()
    assert "head is gone" in str(call("ledger", "verify", ledger.files.database).exception)


def test_export_leaves_out_how_many_records_there_are(ledger: Ledger, tmp_path: Path) -> None:
    rows = json.loads(call("ledger", "export", ledger.files.database).output)
    assert [row["kind"] for row in rows] == ["created", "run", "records", "reserve", "reserve"]
    assert rows[2]["body"] == {}
    assert rows[3]["body"]["releases"] == [[1.5, 0.02, 12]]
    out = tmp_path / "out.json"
    assert call("ledger", "export", ledger.files.database, "--out", out).exit_code == 0
    assert json.loads(out.read_text()) == rows
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_restore_books_the_gap(ledger: Ledger, tmp_path: Path) -> None:
    path = ledger.files.database
    shutil.copy(path, tmp_path / "backup")
    ledger.reserve("digits", "run-1", 3, ROUND, lambda spent: None)
    path.unlink()
    assert "no such ledger" in str(call("ledger", "verify", path).exception)
    result = call("ledger", "restore", path, "--backup", tmp_path / "backup", "--gap", "1.5:0.02:12")
    assert result.exception is None, result.output
    assert "1 rows were missing" in result.output
    assert ledger.spent("digits").history == {(1.5, 0.02): 36}
    assert call("ledger", "verify", path).exit_code == 0
    call("ledger", "restore", path, "--gap", "unknown", "--note", "disk replaced")
    assert ledger.spent("digits").unaccounted


def test_the_words_of_a_gap() -> None:
    assert gap_history(["unknown"]) is None
    assert gap_history(["none"]) == {}
    assert gap_history(["1.5:0.02:3", "1.5:0.02:4", "6:1:1"]) == {(1.5, 0.02): 7, (6.0, 1.0): 1}
    for word in ("1.5", "a:b:c", "0:0.1:1", "1:2:1", "1:0.1:1.5", "1:0.1:-3", "nan:0.1:1", "inf:0.1:1", "1:0.1:nan"):
        with pytest.raises(UserError, match="--gap"):
            gap_history([word])
    with pytest.raises(UserError, match="alone"):
        gap_history(["unknown", "1:1:1"])
