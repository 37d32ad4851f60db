"""A run's numbers as TensorBoard's own reader finds them: every round, nothing that a site did not release, gone with the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.runs.lock import LOCK
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import RunDirectory
from mpssl_fed.runs.written import clear
from tests.federation.conftest import run_tiny
from tests.federation.test_privacy import MP_SSL, PRIVACY

pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed: make test-extras")

__all__ = ["run_tiny"]
Runner = Callable[..., RunDirectory]


def events_of(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_events_hold_the_metrics_and_go_with_the_run(run_tiny: Runner) -> None:
    run = run_tiny("output.track=tensorboard")
    history = [record for record in read_history(run.folder) if record.number > 0]
    shown = {event.step: event.value for event in events_of(run.folder).Scalars("test_accuracy")}
    assert shown == pytest.approx({record.number: record.accuracy for record in history})
    assert clear(run.folder) == []
    assert [path.name for path in run.folder.iterdir()] in ([], [LOCK])


def test_under_privacy_nothing_of_what_a_simulated_site_told_is_shown(run_tiny: Runner) -> None:
    run = run_tiny("output.track=tensorboard", MP_SSL, PRIVACY, "federation.rounds=1", "federation.sites=1")
    events = events_of(run.folder)
    tags = events.Tags()
    assert sorted(tags["scalars"]) == [
        "seconds", "seconds/aggregate", "seconds/evaluate", "sites_answered",
        "test_accuracy", "test_auroc", "test_balanced_accuracy", "test_loss",
    ]  # fmt: skip
    assert not any(tags[kind] for kind in ("images", "audio", "histograms", "tensors", "distributions"))
