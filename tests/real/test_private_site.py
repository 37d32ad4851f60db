"""A real daemon under differential privacy: spent before read, once a round, never twice, kill -9 or not, and never beyond."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpssl_fed.deployment import wire
from mpssl_fed.deployment.own_data import wipe
from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.plan import plan_for
from tests.dossier.pages import Files, Page, call
from tests.dossier.test_numbers import stands
from tests.patience import wait_for
from tests.real.sites import POLICY, RealSite, equal, fill, message, small_disk, tiny, weights

POLICY_DP = POLICY | {"scope": "end-to-end", "max_epsilon": 20.0, "public_size": 200, "metrics": []}
PRIVACY = "privacy={epsilon: 2.0, public_size: 200, sample_rate: 0.1}"
CONFIG = tiny(PRIVACY, "federation.rounds=2")
START = weights(CONFIG)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    real = RealSite(tmp_path_factory.mktemp("private"), CONFIG, policy=POLICY_DP)
    real.start("--trust-bundles")
    yield real
    real.stop()


def spent(site: RealSite) -> int:
    """Return the releases that the ledger has, all together; there is none before the first round."""
    file = site.state / "ledger.sqlite"
    return sum(Ledger(file).spent("digits").history.values()) if file.exists() else 0


def test_a_round_is_charged_once_and_noised(site: RealSite) -> None:
    status, released, metrics = site.train(message(CONFIG, START, run="one"))
    assert status == 200
    assert metrics == {"num-examples": 200.0}  # the declared size; the site holds another number
    assert spent(site) == CONFIG.federation.local_steps
    again = site.train(message(CONFIG, START, run="one"))
    assert equal(again[1], released)
    assert spent(site) == CONFIG.federation.local_steps
    moved = {key: value + np.float32(0.001) for key, value in START.items()}
    assert site.train(message(CONFIG, moved, run="one"))[0] in (200, 409)
    assert spent(site) in (CONFIG.federation.local_steps, 2 * CONFIG.federation.local_steps)  # never fewer than were made


def test_scope_off_and_exact_metrics_are_refused(site: RealSite) -> None:
    before = spent(site)
    assert site.train(message(tiny(), START, run="bare"))[:2] == (409, "scope")
    fast = tiny("privacy={epsilon: 2.0, public_size: 200, sample_rate: 0.1, noise: fast}")
    assert site.train(message(fast, START, run="fast"))[:2] == (409, "noise")
    other = tiny("privacy={epsilon: 2.0, public_size: 200, sample_rate: 0.15}", "federation.rounds=2")
    assert site.train(message(other, START, run="one", number=2))[:2] == (409, "plan")  # not the plan that the run began with
    assert spent(site) == before


def test_kill_in_a_round_never_refunds(site: RealSite) -> None:
    """What a killed round reserved stays spent; the same round afterwards is charged anew, within the run's plan or not at all.

    A table that was given is given again, free, by the new process.
    """
    before = spent(site)
    evaluated = message(tiny(PRIVACY, "federation={sites: 2, rounds: 2, evaluate_at_sites: {times: 1}}"), START, 2, "evaluated")
    status, table, metrics = site.train(evaluated, wire.EVALUATE)
    assert (status, set(table), table["confusion"].shape, set(metrics)) == (200, {"confusion"}, (10, 10), {"noise-std"})
    assert metrics["noise-std"] > 1
    assert spent(site) == before + 1
    early = message(tiny(PRIVACY, "federation={sites: 2, rounds: 2, evaluate_at_sites: {times: 1}}"), START, 1, "evaluated")
    assert site.train(early, wire.EVALUATE)[:2] == (409, "plan")
    assert site.train(message(CONFIG, START, 2, "plain"), wire.EVALUATE)[:2] == (409, "plan")
    slow = tiny(PRIVACY, "federation={sites: 2, rounds: 2, local_steps: 300}")
    before = spent(site)

    def ask() -> None:
        try:
            site.train(message(slow, START, run="slow"))
        except (OSError, http.client.HTTPException):
            return

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: spent(site) > before, "the reservation")
    site.kill()
    asking.join()
    reserved = spent(site)
    assert reserved == before + 300
    site.start("--trust-bundles")
    assert spent(site) == reserved
    assert equal(site.train(evaluated, wire.EVALUATE)[1], table)
    assert spent(site) == reserved
    assert Ledger(site.state / "ledger.sqlite").verify() > 3


def test_spent_is_spent(site: RealSite) -> None:
    """A run whose plan does not fit what is left of the data set's life is refused before its first read."""
    greedy = tiny(
        "privacy={epsilon: 19.0, public_size: 200, sample_rate: 0.1}", "federation={sites: 2, rounds: 2, local_steps: 300}"
    )
    assert plan_for(greedy).price() <= 19.0
    before = spent(site)
    assert site.train(message(greedy, START, run="greedy"))[:2] == (409, "budget")
    assert spent(site) == before


def test_the_dossier_of_its_state_tells_what_the_ledger_does(site: RealSite) -> None:
    """Beside the running daemon, after its kill: every number stands in ledger or policy; that no file keeps refusals is said."""
    site.train(message(CONFIG, START, run="one"))  # so that there is a ledger, should this test run alone
    site.train(message(tiny(), START, run="bare"))
    before, rows = site.status(), Ledger(site.state / "ledger.sqlite").verify()
    status, said = call("dossier", site.state, "--policy", site.policy_file)
    assert status == 0, said
    page, files = Page.of(site.state / "dossier.html"), Files(site.state, site.policy_file)
    assert [one for one in page.cited if not one.quote and not stands(one, files)] == []
    told = {one.key: one.value.strip() for one in page.cited if one.file == "ledger.sqlite" and not one.how}
    assert told["data_sets.0.epsilon"] == rounded_up(before["privacy"]["epsilon"])
    assert told["data_sets.0.releases"] == str(spent(site))
    for index, run in enumerate(Ledger(site.state / "ledger.sqlite").spent("digits").runs.values()):
        found = [told[f"data_sets.0.runs.{index}.{part}"] for part in ("scope", "rounds", "evaluations")]
        assert found == [run.scope, str(run.rounds), str(run.evaluations)]
    assert f"data_sets.0.runs.{index + 1}.rounds" not in told
    assert before["refused"]["scope"] > 0
    assert "absent: no file of a site keeps them" in page.text
    assert [(site.state / name).stat().st_mode & 0o777 for name in ("dossier.html", "dossier.md")] == [0o600, 0o600]
    assert (site.status(), Ledger(site.state / "ledger.sqlite").verify()) == (before, rows)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_full_disk_stops_before_the_first_read(tmp_path: Path) -> None:
    """Nothing is reserved, nothing is read, the server gets a code; with room again the site answers."""
    full = RealSite(tmp_path / "full", CONFIG, policy=POLICY_DP)
    with small_disk(full.state, "1m"), contextlib.closing(full):
        full.start("--trust-bundles")
        assert full.train(message(CONFIG, START, run="fits"))[0] == 200
        before = spent(full)
        fill(full.state)
        code = full.train(message(CONFIG, START, run="full"))[1]
        assert code in ("ledger", "site-failed")
        (full.state / "ballast").unlink()
        charged = spent(full) - before
        assert charged in (0, CONFIG.federation.local_steps)  # a reply that could not be stored is not given, and stays charged
        wipe(full.state)
        assert full.train(message(CONFIG, START, run="again"))[0] == 200
        assert Ledger(full.state / "ledger.sqlite").verify() > 1
