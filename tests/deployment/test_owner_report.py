"""The lifetime epsilon that the owner reads is one number: ledger, status and report agree, under every term of a run."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import mpssl_fed.page
from mpssl_fed.cli import build
from mpssl_fed.deployment.owner_report import Owned, lifetime, write_site_report
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.deployed_run import with_task
from mpssl_fed.privacy.accounting import epsilon
from mpssl_fed.privacy.filter import EXCLUSIVE, SHARED, RenyiFilter, admit_round, admit_run, rounded_up
from mpssl_fed.privacy.ledger import Ledger, PlannedRun
from mpssl_fed.privacy.policy import load_policy
from mpssl_fed.report.privacy_section import spent_by_site
from tests.federation.test_privacy import private_config

DELTA, ROUND, ROUNDS = 1e-5, {(1.1, 0.05): 40}, 5
PLAN = {(1.1, 0.05): 40 * ROUNDS}
PRICE = epsilon(PLAN, DELTA)


def policy_of(folder: Path, max_epsilon: float) -> Path:
    """Write a site's policy."""
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump({"dataset": "chest", "public_size": 200, "max_epsilon": max_epsilon, "delta": DELTA}))
    return path


def page_and_ledger(folder: Path, max_epsilon: float, unaccounted: bool = False) -> tuple[str, str, dict[str, object], Ledger]:
    """Return report, `ledger show` and status of a site that spent all but the last round of a run."""
    policy_file = policy_of(folder, max_epsilon)
    policy, ledger = load_policy(policy_file), Ledger.create(folder / "ledger.sqlite")
    limit = RenyiFilter(policy.max_epsilon, policy.delta)
    judge = admit_run(limit, "run", PLAN)
    ledger.begin_run("chest", "run", PlannedRun({}, "c", PLAN, "end-to-end"), judge)
    for number in range(1, ROUNDS):
        ledger.reserve("chest", "run", number, ROUND, admit_round(limit, "run", ROUND))
    if unaccounted:
        ledger.mark_unaccounted("chest", "other", "scope off")
    config = with_task(private_config())
    owned = Owned(folder, 0, parts.labelled(config, 0), policy, ledger.files.database)
    page = write_site_report(owned, config, "run").read_text(encoding="utf-8")
    words = ["ledger", "show", str(ledger.files.database), "--policy", str(policy_file)]
    shown, as_json = (CliRunner().invoke(build(), [*words, *more], catch_exceptions=False).output for more in ([], ["--json"]))
    status = lifetime(ledger.files.database, policy)
    assert json.loads(as_json)["data_sets"][0]["epsilon_lifetime"] == status["epsilon"]
    return page, shown, status, ledger


@pytest.mark.parametrize(("terms", "budget"), [(SHARED, 3 * PRICE), (EXCLUSIVE, 1.001 * PRICE)])
def test_report_and_ledger_tell_the_same_epsilon(tmp_path: Path, terms: str, budget: float) -> None:
    page, shown, status, ledger = page_and_ledger(tmp_path, budget)
    spent = ledger.spent("chest")
    assert set(spent.terms.values()) == {terms}
    exact, filtered = epsilon(spent.history, DELTA), RenyiFilter(budget, DELTA).epsilon(spent.history)
    assert exact < filtered  # else the two could not be told apart
    assert status["epsilon"] == (exact if terms == EXCLUSIVE else filtered)
    (told,) = [line for line in shown.splitlines() if "spent over its life" in line]
    number = told.split()[1]
    assert f"epsilon {number} of {budget:g} spent over its life" in page
    assert 0 <= float(number) - status["epsilon"] < 0.001  # rounded up, never down
    assert float(number) <= budget


def test_the_page_is_dated_styled_and_the_owners_alone(tmp_path: Path) -> None:
    page, _, _, ledger = page_and_ledger(tmp_path, 3 * PRICE)
    file = tmp_path / "site-report.html"
    assert file.stat().st_mode & 0o777 == 0o600
    assert re.search(r"<dd>20\d\d-\d\d-\d\d \d\d:\d\d UTC</dd>", page)
    css = (Path(mpssl_fed.page.__file__).parent / "report" / "templates" / "style.css").read_text()
    assert css.strip() in page
    assert page.index("spent over its life") < page.index("<h2>")
    counts = parts.label_counts(with_task(private_config()))["sites"]["0"]
    shown = re.findall(r'<td class="num">(\d+)</td><td aria-hidden="true"><span class="bar" style="width:([\d.]+)%">', page)
    assert [int(count) for count, _ in shown] == counts
    assert [float(width) for _, width in shown] == [pytest.approx(100 * n / max(counts), abs=0.06) for n in counts]
    assert f"<dd>{sum(ledger.spent('chest').history.values()):,}</dd>" in page
    assert "What the guarantee hides" in page


def test_a_data_sets_name_is_shown_as_it_is(tmp_path: Path) -> None:
    config = with_task(private_config())
    (tmp_path / "policy.yaml").write_text(
        yaml.safe_dump({"dataset": "a<b>&c", "public_size": 200, "max_epsilon": 3, "delta": DELTA})
    )
    policy = load_policy(tmp_path / "policy.yaml")
    owned = Owned(tmp_path, 0, parts.labelled(config, 0), policy, tmp_path / "none.sqlite", ("trusts <bundles>",))
    page = write_site_report(owned, config, "run").read_text(encoding="utf-8")
    assert "a&lt;b&gt;&amp;c" in page
    assert "<strong>Trusts &lt;bundles&gt;.</strong>" in page
    assert "<b>&c" not in page


def test_what_was_read_without_noise_has_no_number(tmp_path: Path) -> None:
    page, shown, status, _ = page_and_ledger(tmp_path, 3 * PRICE, unaccounted=True)
    assert status["epsilon"] is None
    assert "epsilon is infinite" in page
    assert "epsilon infinite" in shown
    assert "spent over its life" not in page + shown


def test_the_report_of_a_run_tells_what_its_sites_ledgers_do(tmp_path: Path) -> None:
    config = private_config()
    name = config.data.name
    policy = load_policy(policy_of(tmp_path, 3 * PRICE))
    folder = tmp_path / "run" / "sites" / "0"
    ledger, limit = Ledger.create(folder / "ledger.sqlite"), RenyiFilter(policy.max_epsilon, policy.delta)
    judge, put_down = admit_run(limit, "run", PLAN), asdict(limit)
    ledger.begin_run(name, "run", PlannedRun({}, "c", PLAN, "end-to-end"), judge, limit=put_down)
    ledger.reserve(name, "run", 1, ROUND, admit_round(limit, "run", ROUND))
    (own,) = spent_by_site(tmp_path / "run", config, 1e-3)
    assert own.releases == 40
    assert own.epsilon == epsilon(ROUND, 1e-3) > 0
    assert own.words == rounded_up(own.epsilon)
    ledger.mark_unaccounted(name, "other", "scope off")
    assert spent_by_site(tmp_path / "run", config, 1e-3)[0].words == f"infinite; {own.words} accounted"
