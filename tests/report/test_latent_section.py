"""What the report of a run says of its latents, and the warning where the validation loss has no say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mpssl_fed
from mpssl_fed.federation.messages import TrainReply
from mpssl_fed.federation.site.state import Entry, SiteState
from mpssl_fed.report.latent_section import latent_sections, latent_warning
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.runs.reader import RunReader
from tests.study.runs import write_run

TOLD = {"meta_ratio": 0.002, "gap": 0.4, "converter_mass": 0.1, "converter_perplexity": 12.5, "beyond_bound": 0.0}
WEAK = "The validation loss pulls at the label converter with 0.2 % of the feature gap's strength"


def run_of(folder: Path, ratio: float, method: dict[str, Any] | None = None) -> RunReader:
    """Return a run of three sites that told of two rounds, the second in full."""
    write_run(folder, [0.1, 0.4, 0.5], {"method": {"name": "mp-ssl", **(method or {})}})
    for site in range(3):
        state = SiteState(folder / "sites" / str(site))
        for number in (1, 2):
            told = TOLD | {"meta_ratio": ratio * (1 + 0.1 * (site - 1)), "nothing": float("nan")}
            state.save(Entry("0123", number, "0" * 64, {}, {}, TrainReply({}, {}), told))
    return RunReader(folder)


def test_a_ratio_below_a_hundredth_is_warned_of(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0.002)
    assert latent_warning(run).startswith(f"{WEAK}: both are brought to one norm")
    page = write_run_report(run.path).read_text()
    assert "Choice of synthetic images" in page
    assert page.count("strength: both are brought to one norm") == 2  # at the top, and with its table


def test_without_balance_it_says_what_to_set(tmp_path: Path) -> None:
    warning = latent_warning(run_of(tmp_path, 0.002, {"gap": {"balance": False}}))
    assert warning.startswith(f"{WEAK}, so latents follow the gap alone; set method.gap.balance=true")


def test_a_ratio_that_counts_is_shown_and_not_warned_of(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0.2)
    assert latent_warning(run) == ""
    (section,) = latent_sections(run)
    assert "verdict" not in section
    assert "meta ratio" in str(section["table"])


def test_a_real_run_tells_of_its_latents_and_the_server_hears_nothing_of_it(tmp_path: Path) -> None:
    words = ("federation.sites=2", "federation.rounds=2", "federation.local_steps=4", "data.test_limit=50")
    method = "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 1, refresh_every: 2, buffer: 2}"
    run = mpssl_fed.simulate("demo", *words, method, f"output.dir={tmp_path / 'run'}")
    (section,) = latent_sections(RunReader(run.folder))
    for measure in ("meta ratio", "perplexity of the converter", "share of latents beyond it"):
        assert measure in str(section["table"])
    assert not any("meta_ratio" in str(record) for record in run.history)
    told = SiteState(run.folder / "sites" / "0").numbers(str(RunReader(run.folder).manifest["run_id"]))
    assert list(told) == [1, 2]
    assert all(numbers["meta_ratio"] > 0 and numbers["beyond_bound"] == 0 for numbers in told.values())
