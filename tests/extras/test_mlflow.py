"""Runs in a real MLflow store: every round once, resumed or not, and nothing of a place or of a site that told nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.simulation import preflight, simulate
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from mpssl_fed.runs.written import clear
from tests.federation.conftest import Recorder, tiny_config
from tests.federation.test_privacy import MP_SSL, PRIVACY

pytest.importorskip("mlflow", reason="the extra [mlflow] is not installed: make test-extras")
pytestmark = pytest.mark.filterwarnings("default")  # of mlflow and what it brings


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the store that MLFLOW_TRACKING_URI names."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return MlflowClient(tracking_uri=uri)


def run_of(folder: Path, *words: str, app: Any = None, **flags: bool) -> RunDirectory:
    from clients.app import app as own

    directory = open_run(tiny_config("output.track=mlflow", *words), folder, **flags)
    preflight(directory.config)
    simulate(directory, lambda: app or own, Recorder())
    return directory


def tracked(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name("mpssl-fed")
    return list(client.search_runs([experiment.experiment_id]))


def steps(client: Any, run: Any, key: str) -> dict[int, float]:
    """Return {round: value}; a round that the store has twice fails."""
    history = client.get_metric_history(run.info.run_id, key)
    assert len({one.step for one in history}) == len(history)
    return {one.step: one.value for one in history}


def test_a_run_s_rounds_and_settings_are_there(client: Any, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", f"data.root={tmp_path}")
    (found,) = tracked(client)
    history = read_history(run.folder)
    assert steps(client, found, "test_accuracy") == pytest.approx({one.number: one.accuracy for one in history})
    assert steps(client, found, "train_loss") == pytest.approx({one.number: one.train_loss for one in history[1:]})
    assert found.info.status == "FINISHED"
    assert found.data.params["method.name"] == "base"
    assert found.data.params["federation.rounds"] == "2"
    everything = str(found.data.to_dictionary())
    assert str(tmp_path) not in everything
    assert "data.root" not in everything
    assert not (run.folder / "mlflow").exists()


def test_no_parameter_names_a_class_of_the_task(tmp_path: Path) -> None:
    from mpssl_fed.runs.to_mlflow import parameters

    words = ("warm_start.class_map={zero: melanoma}", "method.relevant={one: naevus}")
    told = parameters(open_run(tiny_config(*words), tmp_path / "run"))
    assert told["warm_start.steps"]
    assert not {"melanoma", "naevus"} & set(" ".join([*told, *told.values()]).replace("'", " ").replace(".", " ").split())


def test_a_killed_run_goes_on_in_the_same_place_with_no_round_lost_or_twice(client: Any, tmp_path: Path) -> None:
    from clients.app import app

    asked: list[str] = []

    def dies(message: Any, context: Any) -> Any:
        asked.append("x")
        if len(asked) > 3:
            raise KeyboardInterrupt
        return app(message, context)

    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path / "run", app=dies)
    assert [run.info.status for run in tracked(client)] == ["FAILED"]
    run_of(tmp_path / "run", resume=True)
    (found,) = tracked(client)
    assert found.info.status == "FINISHED"
    assert sorted(steps(client, found, "test_accuracy")) == [0, 1, 2]


def test_under_privacy_nothing_of_what_a_simulated_site_told_is_shown(client: Any, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", MP_SSL, PRIVACY, "federation.rounds=1", "federation.sites=1")
    assert read_history(run.folder)[1].timings["train"] > 0
    (found,) = tracked(client)
    assert sorted(found.data.metrics) == [
        "seconds", "seconds/aggregate", "seconds/evaluate", "sites_answered",
        "test_accuracy", "test_auroc", "test_balanced_accuracy", "test_loss",
    ]  # fmt: skip
    assert all(math.isfinite(value) for value in found.data.metrics.values())


def test_without_a_server_the_store_is_the_run_s_own_and_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    run = run_of(tmp_path / "run", "federation.rounds=1")
    own = MlflowClient(tracking_uri=f"sqlite:///{run.folder}/mlflow/mlflow.db")
    assert sorted(steps(own, tracked(own)[0], "seconds")) == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert clear(run.folder) == []


def test_a_server_that_does_not_answer_is_said_before_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="the store that MLFLOW_TRACKING_URI names does not answer"):
        run_of(tmp_path / "run", "federation.rounds=1")
    assert [one.number for one in read_history(tmp_path / "run")] == [0]


def test_a_store_that_fails_later_ends_no_run(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clients.app import app

    def breaks(message: Any, context: Any) -> Any:
        (tmp_path / "store.db").write_bytes(b"no database any more" * 400)
        return app(message, context)

    told = Recorder()
    notes: list[str] = []
    monkeypatch.setattr(told, "note", notes.append)
    directory = open_run(tiny_config("output.track=mlflow"), tmp_path / "run")
    simulate(directory, lambda: breaks, told)  # type: ignore[arg-type,return-value]
    assert [one.number for one in read_history(directory.folder)] == [0, 1, 2]
    assert len([one for one in notes if one.startswith("output.track=mlflow: it failed")]) == 1
