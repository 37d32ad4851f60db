"""Where a run's public numbers go beside its folder: the trackers that ``output.track`` names, behind one small interface."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.runs.rounds import History, Round
from mpssl_fed.runs.run_directory import RunDirectory

SHOWN = ("test_accuracy", "test_loss", "test_balanced_accuracy", "test_auroc", "train_loss", "seconds", "sites_answered")
"""Keys of a line of metrics.jsonl."""

OF_SITES = ("train_loss", "seconds/train", "seconds/generate", "seconds/serialise")
"""What sites tell beside their weights."""

TRACKERS = {"tensorboard": ("to_tensorboard", "TensorBoard"), "mlflow": ("to_mlflow", "MLflow")}
"""Name, as of the extra and its package -> module and class."""


class Tracker(Protocol):
    """Shows a run; made with its RunDirectory and the history so far, of which it may know a part."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of round ``step``."""

    def end(self, finished: bool) -> None:
        """The run has ended, well or not."""


def require_trackers(config: Config) -> None:
    """Raise UserError where a tracker that ``output.track`` names is not installed."""
    for name in config.output.track:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"output.track={name}: {TRACKERS[name][1]} is not installed; pip install 'mpssl-fed[{name}]'")


@contextmanager
def tracking(run: RunDirectory, history: History, note: Callable[[str], None]) -> Iterator[Callable[[Round], None]]:
    """Give what takes each new round. UserError where a tracker cannot begin; one that fails later is told of and left alone."""
    require_trackers(run.config)
    trackers = {name: _open(name, run, history) for name in run.config.output.track}

    def safely(act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(trackers.items()):
            try:
                act(tracker)
            except Exception as error:  # noqa: BLE001  a run of hours does not end with somebody else's server
                del trackers[name]
                note(f"output.track={name}: it failed and gets nothing more ({type(error).__name__}); metrics.jsonl has all rounds")

    def take(record: Round) -> None:
        values = public_numbers(record, run.config)
        safely(lambda tracker: tracker.numbers(record.number, values))

    for record in history:
        take(record)
    try:
        yield take
    except BaseException:
        safely(lambda tracker: tracker.end(finished=False))
        raise
    safely(lambda tracker: tracker.end(finished=True))


def public_numbers(record: Round, config: Config) -> dict[str, float]:
    """Return {key: value} of what a tracker shows of a round.

    What deployed sites told, their policies released. Simulated sites have no policy: under differential privacy nothing that they
    told is shown.
    """
    line = record.to_json()
    found = {key: float(line[key]) for key in SHOWN if line[key] is not None}
    found |= {f"seconds/{key}": float(value) for key, value in record.timings.items()}
    untold: Sequence[str] = OF_SITES if config.privacy.on and config.federation.backend != "deployment" else ()
    return {key: value for key, value in found.items() if key not in untold}


def _open(name: str, run: RunDirectory, history: History) -> Tracker:
    module, kind = TRACKERS[name]
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it would tell of each table that it makes
    opened: Tracker = getattr(importlib.import_module(f"mpssl_fed.runs.{module}"), kind)(run, history)
    return opened
