"""What is on disk stays true: files of version 0.1 (commit 984c90f, tests/fixtures/README.md) under the present code."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mpssl_fed import config as configs
from mpssl_fed.cli import build
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.folder import load_site_csv, load_site_folder
from mpssl_fed.deployment.owner_report import lifetime
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.budget import Budget, policy_budget
from mpssl_fed.privacy.accounting import epsilon
from mpssl_fed.privacy.filter import RenyiFilter, rounded_up
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import Policy, load_policy

CLASSES, SIGMA = ("cross", "disc", "frame"), 2.354
RUN = {
    "data": {"name": "none", "task": {"classes": list(CLASSES), "size": 16, "channels": 1}},
    "model": {"name": "pixels"},
    "method": {"name": "base"},
    "privacy": {"epsilon": 4.0, "delta": 1e-4, "public_size": 30, "sample_rate": 1.0},
    "federation": {"sites": 2, "rounds": 2, "local_steps": 3},
}
SPENT = {"image": 10, "subject": 10, "locked-out": 6}
"""Releases that version 0.1 charged: two rounds of three and, of a second run, one of four."""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, the working directory of the test; modes as they were, which Git does not keep."""
    shutil.copytree(Path(__file__).parent / "fixtures" / "v0_1", tmp_path / "old")
    for path in (tmp_path / "old").rglob("ledger.sqlite*"):
        path.chmod(0o600)
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def call(*words: str) -> Result:
    return CliRunner().invoke(build(), list(words), catch_exceptions=False)


def policy(unit: str = "image") -> Policy:
    return load_policy("policy.yaml").model_copy(update={"unit": unit})


def budget(path: Path, unit: str = "image", dataset: str = "shapes") -> Budget:
    asked = configs.from_mapping(configs.override(RUN, (f"privacy.unit={unit}",)))
    granted = policy_budget(policy(unit).model_copy(update={"dataset": dataset}), asked, path)
    assert isinstance(granted, Budget)
    return granted


def images(size: int = 16) -> Images:
    return load_site_csv("images/subjects.csv", CLASSES, size, 1)


@pytest.mark.parametrize("state", SPENT)
def test_a_ledger_opens_and_its_spending_counts_in_full(old: Path, state: str) -> None:
    path = old / "state" / state / "ledger.sqlite"
    ledger = Ledger(path)
    assert ledger.verify() == (5 if state == "locked-out" else 7)
    assert ledger.spent("shapes").history == {(SIGMA, 1.0): SPENT[state]}
    told = lifetime(ledger, policy())
    assert told["epsilon"] == RenyiFilter(30, 1e-4).epsilon({(SIGMA, 1.0): SPENT[state]})
    shown: dict[str, Any] = json.loads(call("ledger", "show", str(path), "--json").stdout)["data_sets"][0]
    assert shown["epsilon"] >= told["epsilon"]
    assert (shown["delta"], shown["releases"], shown["unit"]) == (1e-4, SPENT[state], "subject" if state == "subject" else "image")
    assert f"{SPENT[state]} releases" in call("ledger", "show", str(path), "--policy", "policy.yaml").stdout
    assert "rows, chain and head agree" in call("ledger", "verify", f"state/{state}").stdout


@pytest.mark.parametrize("unit", ["image", "subject"])
@pytest.mark.parametrize("state", SPENT)
def test_its_honest_owner_goes_on_where_she_was_by_either_unit(old: Path, state: str, unit: str) -> None:
    """Also she whose true images version 0.1 locked out after one request at another size."""
    path = old / "state" / state / "ledger.sqlite"
    budget(path, unit).reserve("later", 1, True, images())
    spent = Ledger(path).spent("shapes")
    assert spent.history[SIGMA, 1.0] == SPENT[state] + 3
    assert list(spent.runs) == (["run0", "later"] if state == "locked-out" else ["run0", "run1", "later"])
    rows = [row.body.get("kinds") for row in Ledger(path).rows() if row.kind == "records"]
    assert rows == [None, {"image": 36, "subject": 6}]
    budget(path, unit).reserve("later", 2, False, images())
    assert Ledger(path).verify() == (9 if state == "locked-out" else 11)


def test_a_run_that_was_cut_short_ends_within_its_plan(old: Path) -> None:
    path = old / "state" / "image" / "ledger.sqlite"
    with pytest.raises(Refusal, match="plan"):  # of 0.1, with four steps a round
        budget(path).reserve("run1", 2, False, images())
    with pytest.raises(Refusal, match="plan"):  # both of its rounds are spent
        budget(path).reserve("run0", 2, False, images())
    assert Ledger(path).spent("shapes").history == {(SIGMA, 1.0): 10}


@pytest.mark.parametrize("state", ["image", "subject"])
def test_another_name_does_not_start_at_0(old: Path, state: str) -> None:
    path = old / "state" / state / "ledger.sqlite"
    with pytest.raises(Refusal, match="ledger"):
        budget(path, dataset="fresh").reserve("run", 1, True, images())
    others = load_site_folder("images/test", CLASSES, 16, 1)
    budget(path, dataset="fresh").reserve("run", 1, True, others)  # other images are free to have one
    assert Ledger(path).spent("shapes").history == {(SIGMA, 1.0): 10}


def test_a_spent_life_stays_spent(old: Path) -> None:
    path, asked = old / "state" / "image" / "ledger.sqlite", configs.from_mapping(RUN)
    tight = policy().model_copy(update={"max_epsilon": RenyiFilter(30, 1e-4).epsilon({(SIGMA, 1.0): 10})})
    granted = policy_budget(tight, asked, path)
    assert isinstance(granted, Budget)
    with pytest.raises(Refusal, match="budget"):
        granted.reserve("later", 1, True, images())


def test_a_ledger_of_0_1_takes_a_head_elsewhere_and_a_gap(old: Path) -> None:
    ledger = Ledger(old / "state" / "image" / "ledger.sqlite")
    shutil.copy(ledger.files.database, "yesterday")
    (old / "disk").mkdir()
    ledger.move_head(old / "disk" / "head")
    with pytest.raises(Refusal):
        budget(ledger.files.database, dataset="fresh").reserve("run", 1, True, images())
    budget(ledger.files.database).reserve("later", 1, True, images())
    Ledger(ledger.files.database, old / "disk" / "head").book_gap({(SIGMA, 1.0): 3}, "yesterday")
    assert Ledger(ledger.files.database).spent("shapes").history == {(SIGMA, 1.0): 13}


@pytest.mark.parametrize("run", ["run", "run-off", "study"])
def test_runs_and_studies_open_in_report(old: Path, run: str) -> None:
    assert call("report", run).exit_code == 0
    page = (old / run / "report.html").read_text(encoding="utf-8")
    assert "cannot be read" not in page
    if run == "run":
        assert "Epsilon by site" in page
        assert rounded_up(epsilon({(SIGMA, 1.0): 6}, 1e-4)) in page


@pytest.mark.parametrize("model", ["run", "run/model.safetensors"])
def test_models_open_in_predict_and_say_what_they_said(old: Path, model: str) -> None:
    said, says = (old / "predictions.csv").read_text(encoding="utf-8"), call("predict", model, "images/test", "--csv").stdout
    wanted, told = ({row["file"]: row for row in csv.DictReader(io.StringIO(text))} for text in (said, says))
    assert told.keys() == wanted.keys()
    for file, row in wanted.items():
        assert told[file]["class"] == row["class"]
        assert float(told[file]["probability"]) == pytest.approx(float(row["probability"]), abs=1e-4)


@pytest.mark.parametrize(("run", "what"), [("run", "mechanism,membership"), ("run-off", "samples,membership,inversion")])
def test_runs_open_in_audit(old: Path, run: str, what: str) -> None:
    done = call("audit", run, "--what", what, "--shadows", "0", "--iterations", "5", "--trials", "2000")
    assert done.exit_code in (0, 1), done.output  # 1: an attack found something, of a run without privacy
    assert (old / run / "sites" / "0" / "audit" / "audit.html").is_file()


def test_a_run_of_the_old_method_is_refused_in_words(old: Path) -> None:
    """Half of it by the old method and half by the new one would be neither."""
    words = "run directory run was begun with version 1 of the method, this is version .*or another --output"
    with pytest.raises(UserError, match=words):
        call("simulate", "run.yaml", "--output", "run", "--resume")
    assert Ledger(old / "run" / "sites" / "0" / "ledger.sqlite").verify() == 5
    shown = call("ledger", "show", "run").stdout
    assert [line for line in shown.splitlines() if line.startswith("site ")] == ["site 0", "site 1"]
