"""A real site daemon: what it answers, what it refuses, what a kill -9 costs, and what its log and its replies hold."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpssl_fed import config as configs
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.daemon import Door, prepare
from mpssl_fed.deployment.own_data import wipe
from mpssl_fed.deployment.start_site import SiteSettings, check_site
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import SentConfig, TrainRequest
from mpssl_fed.federation.site.client import answer_request
from mpssl_fed.federation.site.site import Site
from mpssl_fed.federation.weights import to_record
from mpssl_fed.privacy.ledger import Ledger
from tests.patience import wait_for
from tests.real.sites import NOBODY, RealSite, equal, message, tiny, weights

CONFIG = tiny()
START = weights(CONFIG)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    real = RealSite(folder, CONFIG)
    real.start()
    yield real
    real.stop()


def test_equals_a_simulated_site(site: RealSite, tmp_path: Path) -> None:
    status, released, metrics = site.train(message(CONFIG, START))
    assert status == 200
    request = TrainRequest(SentConfig.of("run1", CONFIG), 1, to_record(parts.initial_classifier(CONFIG).shared_state()))
    expected = answer_request(Site(0, tmp_path), request)
    assert equal(released, {key: value.numpy() for key, value in expected.weights.items()})
    assert set(metrics) == {"num-examples", "loss"}  # what the policy lists, no timing, no other number
    assert metrics["loss"] == expected.metrics["loss"]
    again = site.train(message(CONFIG, START))
    assert equal(again[1], released)


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (("privacy={epsilon: 8, public_size: 100}",), "epsilon"),
        (("method={name: mp-ssl}",), "method"),
        (("federation.rounds=6",), "rounds"),
        (("federation.local_steps=2001",), "steps"),
        (("data.task.classes=['0','1']",), "classes"),
        (("model.name=/etc/passwd",), "path"),
        (("optim={name: sgd, lr: 1.0e+20}",), "server-key"),
        (("method={name: base, batch: 1000000}",), "server-key"),
        (("federation.anchor={weight: 1, images: 1000000000}",), "generator"),
        (("privacy={epsilon: 0.5, public_size: 100, unit: subject}",), "unit"),
        (("privacy={epsilon: 0.5, public_size: 100, clip: {gradient: 0.001}}",), "clip"),
        (("privacy={epsilon: 0.5, public_size: 100, max_physical_batch: 1}",), "site-key"),
    ],
)
def test_policy_is_the_upper_bound(site: RealSite, overrides: tuple[str, ...], code: str) -> None:
    asked = configs.from_mapping(configs.override(CONFIG.dump(), overrides))
    assert site.train(message(asked, START, run="other"))[:2] == (409, code)


def test_a_clip_that_no_config_holds_is_refused(site: RealSite) -> None:
    """As a hostile server writes it: at 1e-30 nothing was clipped."""
    fields: dict[str, Any] = json.loads(CONFIG.canonical_json())
    fields["privacy"] |= {"epsilon": 0.5, "public_size": 100, "clip": {"gradient": 1e-30}}
    text = json.dumps(fields)
    body = message(CONFIG, START, config=text, sha256=hashlib.sha256(text.encode()).hexdigest())
    assert site.train(body)[:2] == (409, "config")


@pytest.mark.parametrize("key", ["data.root", "generator.path", "generator.foundation", "model.pretrained"])
def test_no_path_from_outside_is_followed(site: RealSite, key: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    os.mkfifo(trap)  # whoever opened it would wait here for ever
    section, leaf = key.split(".")
    fields: dict[str, Any] = json.loads(CONFIG.canonical_json())
    fields[section][leaf] = str(trap)
    text = json.dumps(fields)
    body = message(CONFIG, START, config=text, sha256=hashlib.sha256(text.encode()).hexdigest())
    assert site.train(body)[:2] == (409, "path")


def test_bad_weights_are_refused(site: RealSite) -> None:
    key = next(iter(START))
    poisoned = {name: np.full_like(value, np.nan) for name, value in START.items()}
    assert site.train(message(CONFIG, poisoned, run="bad"))[:2] == (409, "non-finite")
    assert site.train(message(CONFIG, {name: value + 1e30 for name, value in START.items()}, run="bad"))[:2] == (409, "too-large")
    assert site.train(message(CONFIG, START | {"head.bias": START["head.bias"] + 55}, run="bad"))[:2] == (409, "too-large")
    assert site.train(message(CONFIG, START | {key: START[key][:1]}, run="bad"))[:2] == (409, "misshapen")
    assert site.train(message(CONFIG, START | {key: START[key].astype(np.float64)}, run="bad"))[:2] == (409, "misshapen")
    assert site.train(message(CONFIG, START | {"../x": START[key]}, run="bad"))[:2] == (409, "misshapen")


def test_malformed_requests_are_refused(site: RealSite) -> None:
    good = message(CONFIG, START, run="odd")
    assert site.train(b"\x80\x04\x95 a pickle")[:2] == (409, "malformed")
    assert site.train(good[: len(good) // 2])[:2] == (409, "malformed")
    assert site.train(message(CONFIG, START, run_id="../../etc"))[:2] == (409, "malformed")
    assert site.train(message(CONFIG, START, extra="field"))[:2] == (409, "malformed")
    assert site.train(message(CONFIG, START, round="1"))[:2] == (409, "malformed")
    assert site.train(message(CONFIG, START, protocol=99))[:2] == (409, "protocol")
    assert site.train(message(CONFIG, START, sha256="0" * 64))[:2] == (409, "config")
    assert site.train(message(CONFIG, START, number=4))[:2] == (409, "rounds")
    for target in ("/", "/v1/train/../status", "/private/data/000000.png", "/v1/images", "file:///etc/passwd"):
        status, answer = wire.call(site.socket, "GET", target)
        assert (status, answer) == (404, b'{"code": "malformed"}')


def test_kill_in_training_costs_nothing_but_time(site: RealSite) -> None:
    """The same message after a restart gives the weights that an undisturbed round gives."""
    slow = tiny("federation.local_steps=400")
    body = message(slow, START, run="killed")
    undisturbed = site.train(message(slow, START, run="undisturbed"))[1]
    broken: list[Exception] = []

    def ask() -> None:
        try:
            site.train(body)
        except (OSError, http.client.HTTPException) as error:
            broken.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: site.status()["at_work"], "training")
    time.sleep(0.5)
    site.kill()
    asking.join()
    assert broken
    site.start()
    status, released, _ = site.train(body)
    assert status == 200
    assert equal(released, undisturbed)


def test_second_daemon_is_turned_away(site: RealSite) -> None:
    with pytest.raises(UserError, match="another daemon serves this site"):
        prepare(Door(site.socket, NOBODY))
    assert site.up()


def test_starts_that_cannot_end_well(tmp_path: Path) -> None:
    """No policy, or a class that nobody agreed to: an error before the first message."""
    real = RealSite(tmp_path, CONFIG)
    assert CONFIG.data.task is not None
    settings = SiteSettings("site-0", 0, real.listing, CONFIG.data.task.classes, real.policy_file, real.state, trust_bundles=True)
    with pytest.raises(UserError, match="without a policy answers nothing"):
        check_site(replace(settings, policy=tmp_path / "none.yaml"))
    with pytest.raises(UserError, match=r"labels\.csv, line \d+: '.' is not a class of this task"):
        check_site(replace(settings, classes=("one", "two")))
    policy, data, user = check_site(settings)
    assert (policy.scope, user.uid, len(data.images())) == ("off", os.geteuid(), len(parts.shares(CONFIG)[0]))


def test_log_and_status_hold_nothing_private(site: RealSite) -> None:
    assert site.train(message(CONFIG, START, number=4))[:2] == (409, "rounds")
    wait_for(lambda: "answered" in site.log.read_text(encoding="utf-8"), "a line in the log")
    log = site.log.read_text(encoding="utf-8")
    assert str(site.listing.parent) not in log
    assert ".png" not in log
    assert "Traceback" not in log
    found = site.status()
    assert found["trust_bundles"] is False
    assert found["refused"] == {"rounds": 1}
    assert "digits" not in json.dumps(found)
    assert str(site.listing.parent) not in json.dumps(found)


def test_owner_has_a_report_of_its_own(site: RealSite) -> None:
    """Written after the first round: labels, and that scope off leaves no finite epsilon; 0600 in a 0700 folder."""
    report = site.state / "site-report.html"
    wait_for(report.is_file, "the report")
    text = report.read_text(encoding="utf-8")
    counts = np.bincount(parts.labelled(CONFIG, 0).y.numpy(), minlength=10)
    assert "epsilon is infinite" in text
    assert "protects no image from a hostile server" in text
    rows = re.findall(r'<tr><td>(\w+)</td><td class="num">(\d+)</td>', text)
    assert [name for name, _ in rows] == list("0123456789")
    assert [int(count) for _, count in rows] == counts.tolist()
    assert (report.stat().st_mode & 0o777, site.state.stat().st_mode & 0o777) == (0o600, 0o700)
    assert site.status()["privacy"]["epsilon"] is None


def test_status_command(site: RealSite, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mpssl_fed.cli", "site", "status", "--state", str(site.state), "--socket"]
    done = subprocess.run([*command, str(site.socket)], capture_output=True, text=True, check=True)
    assert "trust_bundles      False" in done.stdout
    assert "warning            scope off" in done.stdout
    none = subprocess.run([*command, str(tmp_path / "none.sock")], capture_output=True, text=True, check=False)
    assert none.returncode == 2
    assert "start it with: mpssl-fed site run" in none.stderr


def test_wipe_keeps_the_ledger(site: RealSite) -> None:
    """Scope off leaves a row that says so: from then on these images have no finite epsilon."""
    assert site.train(message(CONFIG, START))[0] == 200
    ledger = Ledger(site.state / "ledger.sqlite")
    before = [row.mac for row in ledger.rows()]
    assert ledger.spent("digits").unaccounted
    (site.state / "audit").mkdir()
    assert set(wipe(site.state)) == {"rounds", "audit", "site-report.html"}
    assert [row.mac for row in ledger.rows()] == before
    assert site.train(message(CONFIG, START))[0] == 200
