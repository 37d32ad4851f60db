"""The metrics of a run's final model: written once at its end, the same after a resume, shown on its page, absent where unknown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mpssl_fed
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation.server.evaluate import clinical
from mpssl_fed.metrics import Predictions, measure
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.runs.reader import RunReader

RUN = {
    "data": {"labels_per_class": 2, "test_limit": 80},
    "model": {"name": "pixels"},
    "method": {"name": "base"},
    "federation": {"sites": 2, "rounds": 2, "local_steps": 10},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mpssl_fed.Run:
    """A finished run of one second."""
    return mpssl_fed.simulate(RUN, output=tmp_path_factory.mktemp("evaluation") / "run")


def test_they_are_those_of_the_final_model(run: mpssl_fed.Run) -> None:
    found, last = run.metrics, run.history[-1]
    assert found is not None
    assert (found.images, found.subjects, found.resamples) == (80, None, 1000)
    assert found.value("accuracy") == pytest.approx(last.accuracy)
    assert found.value("balanced_accuracy") == pytest.approx(last.balanced)
    assert found.value("auroc") == pytest.approx(last.auroc)
    low, high = found.overall["auroc"].low, found.overall["auroc"].high
    assert low is not None
    assert high is not None
    assert low < last.auroc < high  # type: ignore[operator]


def test_a_finished_run_that_is_resumed_has_the_same(run: mpssl_fed.Run) -> None:
    file = run.folder / "evaluation.json"
    before = file.read_text()
    file.unlink()
    assert Path(run.folder / "report.html").exists() is False
    assert "Metrics by class" not in write_run_report(run.folder).read_text()  # a run of an older version
    mpssl_fed.simulate(RUN, output=run.folder, resume=True)
    assert file.read_text() == before


def test_the_page_shows_each_number(run: mpssl_fed.Run) -> None:
    found, page = RunReader(run.folder).metrics, write_run_report(run.folder).read_text()
    assert found is not None
    for value in (found.overall["auroc"], found.classes[3].sensitivity):
        assert value.value is not None
        assert value.low is not None
        assert value.high is not None
        assert f"{100 * value.value:.1f} %" in page
        assert f"{100 * value.low:.1f}–{100 * value.high:.1f} %" in page
    assert f"{found.value('brier'):.3f}" in page
    assert 'aria-label="Share of images named right, by the probability of the named class"' in page
    assert (run.folder / "plots" / "reliability.png").is_file()


def test_a_damaged_file_is_named(run: mpssl_fed.Run, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps({"images": 3}))
    with pytest.raises(UserError, match=r"evaluation.json: damaged \(KeyError"):
        _ = RunReader(tmp_path).metrics


def test_subjects_are_drawn_whole_and_a_model_that_diverged_has_none() -> None:
    logits, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    images = Images(torch.zeros(12, 1, 8, 8, dtype=torch.uint8), y, tuple("aabbccddeeff"))
    found = clinical(logits, images, ("x", "y", "z"))
    assert found == measure(Predictions.of_logits(logits.double().numpy(), np.asarray(y), ("x", "y", "z"), tuple("aabbccddeeff")))
    assert found is not None
    assert found.subjects == 6
    assert clinical(logits * float("inf"), images, ("x", "y", "z")) is None
    assert clinical(None, None, ()) is None
