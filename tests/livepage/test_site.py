"""A real site's owner: its page tells budget, rounds and refusals, and neither it nor any line of the log names what is private."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from tests.livepage.conftest import Watch
from tests.livepage.test_server import ask
from tests.patience import wait_for
from tests.real.sites import POLICY, RealSite, message, tiny, weights

PLANTED = "PLANTED"
CLASSES = [f"{PLANTED}-label-{number}" for number in range(10)]
PRIVACY = "privacy={epsilon: 2.0, public_size: 200, sample_rate: 0.1}"
POLICY_DP = POLICY | {"scope": "end-to-end", "max_epsilon": 20.0, "public_size": 200, "metrics": []}


def plant(listing: Path) -> None:
    """Let every file's name, label and subject of a site's list say that it is private; one image stands there twice."""
    rows = list(csv.DictReader(listing.read_text(encoding="utf-8").splitlines()))
    with open(listing, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "subject"])
        for number, row in enumerate(rows):
            name = f"{PLANTED}-file-{number}.png"
            (listing.parent / row["path"]).rename(listing.parent / name)
            writer.writerow([name, CLASSES[int(row["label"])], f"{PLANTED}-subject-{number // 2}"])
        shutil.copy(listing.parent / f"{PLANTED}-file-0.png", listing.parent / f"{PLANTED}-copy.png")
        writer.writerow([f"{PLANTED}-copy.png", CLASSES[int(rows[0]["label"])], f"{PLANTED}-subject-0"])


def test_the_owner_s_page_and_the_log_tell_the_budget_and_nothing_private(watch: Watch, tmp_path: Path) -> None:
    plain = tiny(PRIVACY, "federation.rounds=2")
    site = RealSite(tmp_path, plain, policy=POLICY_DP)
    plant(site.listing)
    assert plain.data.task is not None
    task = plain.data.task.model_copy(update={"classes": tuple(CLASSES)})
    config = plain.model_copy(update={"data": plain.data.model_copy(update={"task": task})})
    site.config = config
    site.start("--trust-bundles", "--log-format", "json", "--log-level", "debug")
    try:
        address = watch(site.state, "--socket", site.socket)
        place = address.split("/", 3)[3]

        def page() -> str:
            return " ".join(json.loads(ask(address, f"/{place}state")[1]).values())

        assert "no round has been answered" in page()
        assert site.train(message(config, weights(config), run="one"))[0] == 200
        assert site.train(message(config, weights(config), number=9, run="one"))[:2] == (409, "rounds")
        assert site.train(message(tiny(), weights(tiny()), run="bare"))[:2] == (409, "scope")
        wait_for(lambda: "Ready; round 1 of run one was answered last." in page(), "the round on the page")
        wait_for((site.state / "site-report.html").is_file, "the owner's report")
        shown = page()
        for told in ("<dd>1</dd>", "<td>scope</td>", "the site asks for a stricter privacy.scope", " of 20</dd>", "app bundles"):
            assert told in shown, told
        spent = site.status()["privacy"]["epsilon"]
        assert f"{20 - spent:.2f}" in shown
        lines = [json.loads(line) for line in site.log.read_text(encoding="utf-8").splitlines()]
        assert any("answered in" in line["message"] for line in lines)
        assert any("about-the-data.txt" in line["message"] for line in lines)
        assert (site.state / "about-the-data.txt").read_text().startswith("1 links to or copies of an image")
        for text in (shown, json.dumps(lines), json.dumps(site.status())):
            assert PLANTED not in text
            assert str(site.listing.parent) not in text
    finally:
        site.stop()
    wait_for(lambda: "The daemon does not answer." in page(), "the word that it is down")
    assert PLANTED not in page()
