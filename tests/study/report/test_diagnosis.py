"""Signs of failure: measures by hand, on a real run, and the label count at which a study's gain vanishes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mpssl_fed import simulate
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.report.diagnosis import diagnose, noise_like, reach, similarity
from mpssl_fed.report.diagnosis_section import verdict
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.report.signs import collapsed, reached, varies_little
from mpssl_fed.runs.reader import read_diagnosis
from mpssl_fed.study.analysis import arms_of
from mpssl_fed.study.dry_run.estimate import estimate
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import Cell
from mpssl_fed.study.measured import diagnosis_of as row_diagnosis
from mpssl_fed.study.report.diagnosis import study_diagnosis, vanishing_points
from mpssl_fed.study.results import FINISHED, Row
from tests.study.runs import plan_of, write_run

LINE = torch.arange(8.0, dtype=torch.float64)[:, None]  # real features 0, 1, ..., 7: mean 3.5, mean squared distance 5.25


def test_reach_by_hand() -> None:
    assert reach(LINE, LINE) == {"gap": 0.0, "coverage": 1.0, "precision": 1.0}
    # At 10: the fifth neighbours of 6 and 7 are 4 and 5 away, so 10 lies within reach of both and of no other image.
    near = reach(LINE, torch.tensor([[10.0], [100.0]], dtype=torch.float64))
    assert near == {"gap": pytest.approx((55 - 3.5) ** 2 / 5.25), "coverage": 2 / 8, "precision": 1 / 2}
    assert reach(LINE, LINE + 1000) == {"gap": pytest.approx(1000**2 / 5.25), "coverage": 0.0, "precision": 0.0}


def diagnosis_of(synthetic: float, noise: float, real: float) -> dict[str, Any]:
    """Return a diagnosis with these coverages."""
    rest = dict.fromkeys(("gap", "precision", "pair", "pair_std", "others", "rank", "change"), 0.5)
    of = {name: {"coverage": value} for name, value in (("synthetic", synthetic), ("noise", noise), ("real", real))}
    return {"images": 9, "synthetic": of["synthetic"] | rest, "real": of["real"] | rest, "noise": of["noise"]}


@pytest.mark.parametrize(
    ("synthetic", "noise", "real", "share", "said"),
    [
        (0.33, 0.5, 1.0, -0.34, "do not reach the data: they come no nearer to it than noise"),  # glyphs against coloured shapes
        (0.5, 0.5, 1.0, 0.0, "do not reach the data"),
        (0.55, 0.5, 1.0, 0.1, "hardly reach the data: 10 % of the way"),
        (0.75, 0.5, 1.0, 0.5, "reach part of the data: 50 % of the way"),
        (0.95, 0.5, 1.0, 0.9, "images reach the data: 90 % of the way"),
        (0.33, 0.95, 1.0, None, "noise looks much like your images"),
    ],
)
def test_coverage_counts_beside_that_of_noise_and_of_real_images(
    synthetic: float, noise: float, real: float, share: float | None, said: str
) -> None:
    found = diagnosis_of(synthetic, noise, real)
    assert reached(found) == (None if share is None else pytest.approx(share))
    assert said in verdict(found)


def test_a_diagnosis_of_an_older_run_is_still_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [0.1, 0.5])
    found = {name: value for name, value in diagnosis_of(0.33, 0.5, 1.0).items() if name != "noise"}
    (folder / "diagnosis.json").write_text(json.dumps(found))
    page = write_run_report(folder).read_text()
    assert "other real images" in page
    assert "0.33" in page
    assert "Measured before noise was" in page
    assert "does not reach" not in page
    assert row_diagnosis(folder) == "coverage=0.3300 " + " ".join(
        f"{name}=0.5000" for name in ("gap", "precision", "pair", "pair_std", "others", "rank", "change")
    )


def test_noise_has_the_brightness_and_contrast_of_the_images() -> None:
    images = (torch.rand(64, 3, 16, 16, dtype=torch.float64) - 0.5) * torch.tensor([1.0, 0.5, 0.1])[:, None, None] + 0.2
    noise = noise_like(images, seed=0)
    for moment in (torch.mean, torch.std):
        assert torch.allclose(moment(noise, (0, 2, 3)), moment(images, (0, 2, 3)), atol=0.01)
    assert not torch.equal(noise, noise_like(images, seed=1))
    assert torch.equal(noise, noise_like(images, seed=0))
    assert noise_like(images * 100, seed=0).abs().max() <= 1


def test_similarity_by_hand() -> None:
    apart = torch.eye(4, dtype=torch.float64)
    measured = similarity(apart, apart)
    assert measured["pair"] == pytest.approx(1)
    assert measured["others"] == pytest.approx(0)
    assert measured["rank"] == pytest.approx(3)  # centred: three equal directions
    half = similarity(apart, apart.flip(0))
    assert (half["pair"], half["others"]) == (pytest.approx(0), pytest.approx(1 / 3))
    assert not collapsed(measured)


@pytest.mark.parametrize(
    "features",
    [
        torch.ones(6, 3, dtype=torch.float64),
        torch.linspace(1, 2, 6, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
        torch.tensor([[100.0, 0.0], [100.0, 1.0], [100.0, 2.0]], dtype=torch.float64),
    ],
    ids=["one point", "one line", "far from zero"],
)
def test_collapse_is_called(features: torch.Tensor) -> None:
    assert collapsed(similarity(features, features))


def test_views_that_change_little_are_called() -> None:
    assert varies_little({"change": 0.05})
    assert not varies_little({"change": 0.5})


def test_a_real_run_is_diagnosed_and_its_report_says_so(tmp_path: Path) -> None:
    words = ("federation.sites=2", "federation.rounds=2", "federation.local_steps=3", "data.test_limit=50")
    method = "method={name: mp-ssl, batch: 4, lmo_batch: 2, lmo_every: 2, refresh_every: 2, buffer: 2}"
    run = simulate("demo", *words, method, f"output.dir={tmp_path / 'run'}")
    # A site: fresh batches of 4 at steps 0, 2 | 4; latents at steps 2 | 4 on 2 images each: at step 0 lambda is 0.
    assert [record.generated for record in run.history] == [None, 2 * (2 * 4 + 2), 2 * (4 + 2)]
    planned = estimate(Cell(run.config, {}))
    assert planned is not None
    assert planned.images == sum(record.generated or 0 for record in run.history)
    found = diagnose(run.folder)
    assert found is not None
    assert found == read_diagnosis(run.folder)
    assert found["noise"].keys() == {"gap", "coverage", "precision"}
    for of in ("synthetic", "real"):
        for share in ("coverage", "precision", "pair"):
            assert 0 <= found[of][share] <= 1 + 1e-9
    # Held-out digits lie nearer to other digits than printed glyphs do.
    assert found["real"]["gap"] < found["synthetic"]["gap"]
    assert found["real"]["coverage"] > 0.8
    assert found["synthetic"]["change"] > 0.1
    assert diagnose(run.folder) == found  # the same streams again
    page = write_run_report(run.folder).read_text()
    assert "coverage of real images" in page
    assert "of the way from noise to other real images" in page
    # To this model the digits of another day lie all the way, glyphs part of it, noise none.
    assert found["noise"]["coverage"] < found["synthetic"]["coverage"] < found["real"]["coverage"]
    share = reached(found)
    assert share is not None
    assert 0 < share < 1


@pytest.mark.parametrize(
    "config",
    [
        {"method": {"name": "base"}},
        {"method": {"name": "mp-ssl"}, "privacy": {"epsilon": 1.0, "public_size": 100}},
        {"method": {"name": "mp-ssl"}, "federation": {"backend": "deployment"}},
    ],
    ids=["no generator", "differential privacy", "deployment"],
)
def test_nothing_is_measured_where_it_must_not_be(tmp_path: Path, config: dict[str, object]) -> None:
    folder = write_run(tmp_path / "run", [0.1, 0.5], config)
    assert diagnose(folder) is None
    assert read_diagnosis(folder) is None
    assert "coverage of real images" not in write_run_report(folder).read_text()


def study_with_gains(folder: Path, gains: dict[int, float]) -> Outcome:
    """Return a study of base and vic-gssl whose difference is ``gains`` at each label count, with a little spread over seeds."""
    grid = {"method.name": ["base", "vic-gssl"], "data.labels_per_class": list(gains)}
    plan = plan_of(folder, grid=grid, seeds=5, baseline={"method.name": "base"})
    rows = {}
    for cell in plan.cells:
        helped = cell.settings["method.name"] == "vic-gssl"
        accuracy = 0.5 + 0.01 * cell.seed + helped * (gains[cell.settings["data.labels_per_class"]] + 0.002 * (cell.seed - 2))
        rows[cell.sha256] = Row(cell.sha256, METHOD_VERSION, cell.seed, FINISHED, cell.settings, accuracy=accuracy)
    return Outcome(plan, folder, rows)


@pytest.mark.parametrize(
    ("gains", "last", "where"),
    [
        ({1: 0.1, 4: 0.05, 10: 0.0}, "4", "between 4 and 10 labels per class"),
        ({1: 0.1, 4: 0.05}, "4", "not within this study"),
        ({1: 0.0, 4: -0.05}, "–", "no gain seen"),
    ],
)
def test_where_the_gain_vanishes(tmp_path: Path, gains: dict[int, float], last: str, where: str) -> None:
    outcome = study_with_gains(tmp_path, gains)
    (line,) = vanishing_points(outcome, arms_of(outcome))
    assert line[0] == "vic-gssl"
    assert line[2:] == [last, where]
    assert f"1: {100 * gains[1]:+.1f}" in line[1]
    (section,) = study_diagnosis(outcome, arms_of(outcome))
    assert section["title"] == "Labels and the gain"


def test_a_study_of_one_label_count_has_no_such_point(tmp_path: Path) -> None:
    outcome = study_with_gains(tmp_path, {4: 0.1})
    assert vanishing_points(outcome, arms_of(outcome)) == []
