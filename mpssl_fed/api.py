"""Run and load from Python. Importing this is cheap: torch and Flower come in when something is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from mpssl_fed.config import Config
    from mpssl_fed.models import Classifier
    from mpssl_fed.runs.progress import Progress


@dataclass(frozen=True)
class Run:
    """A run on disk: its folder, resolved config and the records of metrics.jsonl (round 0 is the initial model)."""

    folder: Path
    config: Config
    history: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        """Accuracy on the held-out images (``data.held_out``) of the last round that was evaluated, 0..1."""
        return float(next(record["test_accuracy"] for record in reversed(self.history) if record["test_accuracy"] is not None))

    def classifier(self) -> Classifier:
        """Return the trained classifier in eval mode."""
        return load(self)

    @staticmethod
    def open(folder: str | Path) -> Run:
        """Return the run in ``folder``; UserError when it is not one."""
        from mpssl_fed.runs.reader import read_config, read_history

        return Run(Path(folder), read_config(Path(folder)), read_history(Path(folder)))


def simulate(
    config: Config | str | Path | Mapping[str, Any],
    *overrides: str,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    command: str = "mpssl_fed.simulate",
) -> Run:
    """Simulate a federation and return the run.

    config: a Config, the path or name of a YAML file, or a mapping of config keys; overrides: ``key.path=value``. The run
    directory is ``output.dir`` (default ``runs/CONFIG-STEM``); one that exists is refused unless ``resume`` (continue it) or
    ``overwrite`` (delete it). Raises UserError for bad input and for a run in which no site answered.
    """
    from mpssl_fed.federation.engines.simulation import preflight
    from mpssl_fed.federation.engines.simulation import simulate as run_sites
    from mpssl_fed.runs.progress import Progress as Silent
    from mpssl_fed.runs.run_directory import open_run, refuse_occupied

    resolved, stem = _resolve(config, overrides)
    folder = Path(resolved.output.dir or Path("runs") / stem)
    overwrite = overwrite or resolved.output.overwrite
    refuse_occupied(folder, resume=resume, overwrite=overwrite)
    preflight(resolved)
    run = open_run(resolved, folder, resume=resume, overwrite=overwrite, command=command)
    run_sites(run, client_app, progress or Silent())
    return Run.open(folder)


def load(run: Run | str | Path) -> Classifier:
    """Return the trained classifier of a run, or of a ``model.safetensors`` file, on the CPU and in eval mode.

    Raises UserError when the file is missing (an unfinished run) or is not one of ours.
    """
    from mpssl_fed.runs.model_file import read_model

    return read_model(run.folder if isinstance(run, Run) else Path(run))


def client_app() -> ClientApp:
    """Return the ClientApp, the same object that ``flwr run`` starts at a node."""
    from clients.app import app

    return app


def _resolve(config: Config | str | Path | Mapping[str, Any], overrides: tuple[str, ...]) -> tuple[Config, str]:
    from mpssl_fed import config as configs

    if isinstance(config, configs.Config):
        return (configs.from_mapping(configs.override(config.dump(), overrides)) if overrides else config), "run"
    if isinstance(config, Mapping):
        return configs.from_mapping(configs.override(dict(config), overrides)), "run"
    return configs.load(config, overrides), Path(config).stem
