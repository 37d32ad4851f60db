"""A run in MLflow (extra ``[mlflow]``): where MLFLOW_TRACKING_URI says, else in a store of its own below the run's folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mpssl_fed.config import Config
from mpssl_fed.config.leaves import flat
from mpssl_fed.errors import UserError
from mpssl_fed.runs.rounds import History
from mpssl_fed.runs.run_directory import RunDirectory

EXPERIMENT = "mpssl-fed"
MARK, LAST = "mpssl_fed.run_id", "seconds"
"""The tag that a resumed run is found by; a number that every round has."""

UNTOLD = (
    *("output", "data.root", "generator.path", "generator.foundation", "model.pretrained"),
    *("data.task", "method.relevant", "warm_start.class_map"),
)
"""Keys, or sections, that name places on this machine, or the task's classes."""

MOST_PARAMS, LONGEST_PARAM = 100, 500


class MLflow:
    """Writes a run's keys as parameters and its numbers as metrics of their round, into the experiment MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, run: RunDirectory, history: History) -> None:
        given = os.environ.get("MLFLOW_TRACKING_URI", "")
        try:
            self._client = MlflowClient(tracking_uri=given or _own_store(run))
            self._run = self._found(run) or self._begun(run)
            told = self._client.get_metric_history(self._run, LAST)
        except MlflowException as error:
            where = "the store that MLFLOW_TRACKING_URI names" if given else f"the store in {run.folder / 'mlflow'}"
            raise UserError(f"output.track=mlflow: {where} does not answer: {str(error).splitlines()[0][:200]}") from error
        self.last = max((metric.step for metric in told), default=-1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Send them at once; a round that the store has is not sent twice. MlflowException where it cannot be had any more."""
        if step <= self.last:
            return
        now = time.time_ns() // 1_000_000
        self._client.log_batch(self._run, metrics=[Metric(key, value, now, step) for key, value in values.items()])
        self.last = step

    def end(self, finished: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")

    def _found(self, run: RunDirectory) -> str | None:
        found = self._client.get_experiment_by_name(_experiment())
        if found is None:
            return None
        runs = self._client.search_runs([found.experiment_id], f"tags.`{MARK}` = '{run.run_id}'", max_results=1)
        if not runs:
            return None
        self._client.update_run(runs[0].info.run_id, "RUNNING")
        return str(runs[0].info.run_id)

    def _begun(self, run: RunDirectory) -> str:
        name = _experiment()
        there = self._client.get_experiment_by_name(name)
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (run.folder.absolute() / "mlflow" / "artifacts").as_uri()
        experiment = there.experiment_id if there else self._client.create_experiment(name, own)
        made = self._client.create_run(experiment, tags={MARK: run.run_id}, run_name=run.folder.name).info.run_id
        params = [Param(key, value[:LONGEST_PARAM]) for key, value in parameters(run).items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(made, params=params[start : start + MOST_PARAMS])
        return str(made)


def parameters(run: RunDirectory) -> dict[str, str]:
    """Return {dotted key: value} of the run's config, without what names a place on this machine or the task's classes."""
    keys = flat(run.config.dump(), Config)
    return {key: str(value) for key, value in keys.items() if not any(key == out or key.startswith(f"{out}.") for out in UNTOLD)}


def _own_store(run: RunDirectory) -> str:
    folder = run.folder.absolute() / "mlflow"
    if any(mark in str(folder) for mark in "?#%"):
        raise UserError(f"output.track=mlflow: {folder} holds one of ? # %, which a store's address cannot; take another --output")
    folder.mkdir(exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def _experiment() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
