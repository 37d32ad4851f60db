"""Four deployed sites that share noise, each a daemon and a SuperNode of its own, one of which is killed right after its charge."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from clients.app import app
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.processes import marked
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.deployment.relay import SOCKET
from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.write import write_dossier
from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.inprocess import InProcessGrid
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.federation.server.rounds import Job, serve
from mpssl_fed.federation.site.closed import ROUNDS
from mpssl_fed.federation.site.identity import fingerprint_of, identity_key
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.shared.history import Shared
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import open_run
from tests.patience import wait_for
from tests.real.sites import POLICY, RealSite, Serving, Story, tiny

pytestmark = pytest.mark.slow
SITES, COUNT, KILLED_IN = 4, 6, 2
CONFIG = tiny(
    f"federation={{sites: {SITES}, rounds: {COUNT}, local_steps: 1, aggregation: secure, eval_every: {COUNT},"
    " secure: {slots: 2, min_sites: 3}, join_deadline_s: 600, deadline_s: 120}",
    "data={labels_per_class: 60, test_limit: 1000}",
    "generator.name=glyphs-digits",
    "model.trainable=head",
    "warm_start={part: both, steps: 200}",
    "optim={name: sgd, lr: 0.5, schedule: constant, warmup_steps: 0, weight_decay: 0}",
    "privacy={trust: sum, epsilon: 2, public_size: 600, sample_rate: 0.1}",
)


def status(socket: Path) -> dict[str, Any]:
    """Return what the owner of a site sees; nothing where it does not answer."""
    try:
        return dict(json.loads(wire.call(socket, "GET", wire.STATUS)[1])["privacy"])
    except (OSError, ValueError):
        return {}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, Path, dict[str, Any], list[UserError]]:
    """The run, its folder, what the owner of site 1 saw before the last round ended, and what went wrong."""
    run, story = tmp_path_factory.mktemp("shared") / "run", Story()
    with Deployment(CONFIG, run, note=lambda _: None) as up:
        token, home = up.children.token, up.home
        serving = Serving(up, story)
        failed = serving.failed
        wait_for(lambda: status(home / "0.sock").get("releases") == KILLED_IN or failed, "the charge of a round")
        os.killpg(up.children.running["daemon-0"].pid, signal.SIGKILL)
        wait_for(lambda: story.knows(COUNT - 1) or failed, "the last round but one")
        seen = status(home / "1.sock")
        serving.end()
    assert not marked(token)
    return story, run, seen, failed


def test_the_run_goes_on_without_the_killed_site_and_learns(story: tuple[Story, Path, dict[str, Any], list[UserError]]) -> None:
    told, run, _, failed = story
    assert failed == []
    assert read_manifest(run)["status"] == "finished"
    answered = [record["sites_answered"] for record in told.records[1:]]
    assert min(answered) >= SITES - 1
    assert not any(record.get("failed") for record in told.records)
    assert answered[-1] == SITES  # with the next keys it is back
    assert told.records[-1]["test_accuracy"] > 0.7
    assert load_file(run / "model.safetensors")


def test_what_was_charged_stays_charged_and_no_round_was_masked_twice(
    story: tuple[Story, Path, dict[str, Any], list[UserError]],
) -> None:
    told, run, _, _ = story
    key = (plan_for(CONFIG).sigma_gradient / 3**0.5, 0.1, Shared(3, 0, SITES))
    for site in range(SITES):
        ledger = Ledger(run / "sites" / str(site) / "ledger.sqlite")
        charged = [row.round for row in ledger.rows() if row.kind == "reserve"]
        assert len(set(charged)) == len(charged)  # a site that masked a round anew would have charged it anew
        assert ledger.spent("deploy").history == {key: len(charged)}
        assert KILLED_IN in charged
        assert json.loads((run / "sites" / str(site) / ROUNDS).read_text()).popitem()[1] == COUNT
        answered = sum(record["sites_answered"] for record in told.records[1:]) - (SITES - 1) * COUNT
        assert len(charged) >= answered if site == 0 else charged == list(range(1, COUNT + 1))


def test_owners_see_both_epsilons_while_it_runs_and_on_paper(story: tuple[Story, Path, dict[str, Any], list[UserError]]) -> None:
    _, run, seen, _ = story
    assert 0 < seen["epsilon"] < 2
    assert seen["epsilon_alone"] > 2
    site = run / "sites" / "1"
    assert "if no other site in the sums that covered it was honest" in (site / "site-report.html").read_text(encoding="utf-8")
    assert "if no other site in the sums that covered it was honest" in write_dossier(Subject(site)).markdown.read_text()
    alone = f"{plan_for(CONFIG).price_alone():.2f}"
    assert "if no other site in the sums is honest" in (text := write_dossier(Subject(run)).markdown.read_text())
    assert alone in text


ASKED = tiny(
    "federation={sites: 5, rounds: 2, local_steps: 1, aggregation: secure, secure: {slots: 1, min_sites: 3}, deadline_s: 600}",
    "optim={name: sgd, lr: 0.1, weight_decay: 0}",
    "privacy={trust: sum, epsilon: 1, public_size: 100, sample_rate: 0.1}",
)
WARY, ALONE = 3, 4
"""The site whose owner trusts no sum, and the one whose owner caps what is left if no other site is honest."""


def test_owners_who_trust_less_take_no_part_and_pay_nothing(tmp_path: Path) -> None:
    """Daemons that list each other as peers; the server runs here."""
    states = [tmp_path / str(site) / "private" / "state" for site in range(5)]
    for state in states:
        state.mkdir(parents=True)
        state.parent.chmod(0o700)
        state.chmod(0o700)
    asks = {"required": True, "min_sites": 3, "peers": [fingerprint_of(identity_key(state)) for state in states]}
    says = {"scope": "end-to-end", "metrics": [], "trust": "sum", "max_epsilon": 1.5, "secure_aggregation": asks}
    own = {WARY: {"trust": "site"}, ALONE: {"max_epsilon_alone": 1.01}}
    sites = [RealSite(tmp_path / str(i), ASKED, i, POLICY | says | own.get(i, {})) for i in range(5)]
    try:
        for site in sites:
            site.start()
        run = open_run(ASKED, tmp_path / "run")
        grid = InProcessGrid(app, [{SOCKET: str(site.socket)} for site in sites])
        serve(grid, Job(run, expected_sites=5, travels=for_sites(ASKED)))
        seen = [site.status() for site in sites]
    finally:
        for site in sites:
            site.stop()
    history = read_history(run.folder)[1:]
    assert [(one.answered, one.failed) for one in history] == [(3, False)] * 2
    assert [one.rejected for one in history] == [{"trust": 1, "budget": 1}] * 2
    assert [one["privacy"]["releases"] for one in seen] == [2, 2, 2, 0, 0]
    assert seen[WARY]["refused"].keys() == {"trust"}
    assert seen[ALONE]["refused"]["budget"] == 2
    assert all(0 < one["privacy"]["epsilon"] <= 1.5 < one["privacy"]["epsilon_alone"] for one in seen[:3])
    assert "active server" in seen[0]["secure_aggregation"]["against"]
