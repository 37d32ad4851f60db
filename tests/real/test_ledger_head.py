"""A real daemon whose ledger's head lives elsewhere, and what its ledger makes of a hostile size and of a folder put back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mpssl_fed import config as configs
from mpssl_fed.cli.ledger import app
from mpssl_fed.deployment.owner_report import lifetime
from mpssl_fed.deployment.start_site import SiteSettings, check_site, open_ledger
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import load_policy
from tests.patience import PATIENCE_S
from tests.real.sites import RealSite, message
from tests.real.test_private_site import CONFIG, POLICY_DP, START


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    """One site, with its head on the "disk" beside its folder; the tests below stop it and start it again, in their order."""
    real = RealSite(tmp_path_factory.mktemp("head") / "site", CONFIG, policy=POLICY_DP)
    head(real).parent.mkdir()
    real.start(*options(real))
    yield real
    real.stop()


def head(site: RealSite) -> Path:
    return site.folder.with_name("disk") / "head"


def options(site: RealSite) -> tuple[str, ...]:
    return "--trust-bundles", "--ledger-head", str(head(site))


def check(site: RealSite, **changes: Any) -> None:
    """Do what a daemon does before it serves, in this process."""
    assert CONFIG.data.task is not None
    settings = SiteSettings(
        "site-0", 0, site.listing, CONFIG.data.task.classes, site.policy_file, site.state, trust_bundles=True, channels=1, **changes
    )
    policy, data, _ = check_site(settings)
    open_ledger(settings, policy, data)


def test_a_server_that_asks_another_size_is_refused_and_locks_nothing_out(site: RealSite) -> None:
    for override in ("data.task.size=8", "data.task.size=64", "data.task.channels=3", "data.task.stored_size=40"):
        hostile = configs.from_mapping(configs.override(CONFIG.dump(), (override,)))
        assert site.train(message(hostile, START, run="hostile"))[:2] == (409, "image-shape")
    assert [row.body["head"] for row in Ledger(site.state / "ledger.sqlite").rows()] == [str(head(site))]  # since its first start
    assert site.train(message(CONFIG, START, run="one"))[0] == 200
    assert Ledger(site.state / "ledger.sqlite").verify() == 4


def test_status_and_ledger_show_tell_one_number_and_where_the_head_is(site: RealSite) -> None:
    found = site.status()
    assert found["ledger_head"] == str(head(site))
    assert found["privacy"] == lifetime(site.state / "ledger.sqlite", load_policy(site.policy_file))
    for more in ([], ["--policy", str(site.policy_file)]):
        words = ["ledger", "show", str(site.state), "--json", *more]
        shown = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)["data_sets"][0]
        assert shown["epsilon"] == found["privacy"]["epsilon"]
        assert shown["max_epsilon"] == 20


def test_a_broken_ledger_stops_messages_by_code_and_the_owner_is_told_why(site: RealSite) -> None:
    kept = head(site).read_bytes()
    head(site).unlink()
    assert site.train(message(CONFIG, START, run="two"))[:2] == (409, "ledger")
    assert f"{head(site)}: the ledger's head is gone" in site.status()["privacy"]["error"]
    assert not head(site).exists()
    head(site).write_bytes(kept)
    head(site).chmod(0o600)
    assert site.train(message(CONFIG, START, run="two"))[0] == 200


def test_a_folder_put_back_whole_does_not_start(site: RealSite) -> None:
    """Database, key, lock and stored replies of yesterday: with the option, without it, and with the head's disk gone."""
    shutil.copytree(site.state, site.folder / "yesterday")
    assert site.train(message(CONFIG, START, run="three"))[0] == 200
    site.stop()
    check(site, ledger_head=head(site))
    spent = Ledger(site.state / "ledger.sqlite").spent("digits").history
    shutil.rmtree(site.state)
    shutil.move(site.folder / "yesterday", site.state)
    with pytest.raises(UserError, match="an earlier copy; run `ledger restore`"):
        check(site, ledger_head=head(site))
    said = len(site.log.read_text(encoding="utf-8"))
    site.start("--trust-bundles", wait=False)  # as a unit would that an owner forgot to change
    assert site.process is not None
    assert site.process.wait(PATIENCE_S) == 2
    assert "an earlier copy; run `ledger restore`" in site.log.read_text(encoding="utf-8")[said:]

    head(site).parent.rename(site.folder / "unmounted")
    with pytest.raises(UserError, match="mount its disk or"):
        check(site)
    with pytest.raises(UserError, match=r"--ledger-head .*: no folder"):
        check(site, ledger_head=head(site))
    (site.folder / "unmounted").rename(head(site).parent)
    with pytest.raises(UserError, match="lies in the state folder"):
        check(site, ledger_head=site.state / "head")

    Ledger(site.state / "ledger.sqlite").book_gap(dict.fromkeys(spent, CONFIG.federation.local_steps))
    site.start("--trust-bundles")
    assert site.status()["ledger_head"] == str(head(site))
    assert Ledger(site.state / "ledger.sqlite").spent("digits").history == spent


def test_data_that_stand_under_another_name_do_not_start(site: RealSite) -> None:
    site.stop()
    text = site.policy_file.read_text(encoding="utf-8")
    site.policy_file.write_text(text.replace("dataset: digits", "dataset: fresh"), encoding="utf-8")
    with pytest.raises(UserError, match="were charged as 'digits'"):
        check(site)
    site.policy_file.write_text(text, encoding="utf-8")
    check(site)
