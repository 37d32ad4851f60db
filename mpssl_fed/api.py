"""Run and load from Python. Importing this is cheap: torch and Flower come in when something is run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpssl_fed.caller import apart_from_caller
from mpssl_fed.environment import expanded, have_home
from mpssl_fed.errors import UserError, option

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from mpssl_fed.config import Config, Given
    from mpssl_fed.metrics import Metrics
    from mpssl_fed.models import Classifier
    from mpssl_fed.runs.progress import Progress
    from mpssl_fed.runs.rounds import Round


@dataclass(frozen=True, repr=False)
class Run:
    """A run on disk: its folder, resolved config and rounds (round 0 is the initial model)."""

    folder: Path
    config: Config
    history: list[Round]

    @property
    def accuracy(self) -> float:
        """Accuracy on the held-out images (``data.held_out``) of the last round that was evaluated, 0..1."""
        evaluated = [one.accuracy for one in self.history if one.accuracy is not None]
        if not evaluated:
            raise UserError(f"{self.folder}: no round was evaluated")
        return float(evaluated[-1])

    @property
    def metrics(self) -> Metrics | None:
        """Balanced accuracy, AUROC, sensitivity and what else clinical users report of the final model, with intervals.

        On the held-out images; None before the end, without such images and of runs of version 0.1.
        """
        from mpssl_fed.runs.reader import RunReader

        return RunReader(self.folder).metrics

    def classifier(self) -> Classifier:
        """Return the trained classifier in eval mode."""
        return load(self)

    def __repr__(self) -> str:
        """Return one readable line: folder, method, rounds, sites, accuracy."""
        federation, method = self.config.federation, self.config.method
        evaluated = [one.accuracy for one in self.history if one.accuracy is not None]
        accuracy = f"{self.config.data.held_out} accuracy {evaluated[-1]:.4f}" if evaluated else "not evaluated"
        done = self.history[-1].number if self.history else 0
        return (
            f"<Run {str(self.folder)!r}: {method.name or f'{method.source} + {method.loss}'} on {self.config.data.name}, "
            f"{federation.sites} sites, round {done} of {federation.rounds}, {accuracy}>"
        )

    @staticmethod
    def open(folder: str | Path) -> Run:
        """Return the run in ``folder``; UserError when it is not one."""
        from mpssl_fed.runs.reader import read_config, read_history

        folder = expanded(folder)
        return Run(folder, read_config(folder), read_history(folder))


def simulate(
    config: Config | str | Path | Mapping[str, Any],
    *overrides: Given,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    command: str = "mpssl_fed.simulate",
) -> Run:
    """Simulate a federation and return the run.

    config: a Config, the path or name of a YAML file, or a mapping of config keys; overrides: ``key.path=value``. The run
    directory is ``output``, else ``output.dir``, else ``runs/CONFIG-STEM`` (``runs/CONFIG-STEM-run`` where that holds a study); one
    that exists is refused unless ``resume`` (continue it) or ``overwrite`` (delete what it wrote; what others put there stays).
    Raises UserError for bad input, for a folder that another run is writing and for a run in which no site answered. What torch is
    set to around the call (:mod:`mpssl_fed.caller`) does not matter to the run, and is afterwards what it was.
    """
    resolved, stem = _resolve(config, overrides)
    folder = _folder(output, resolved, stem)
    if resolved.federation.backend == "deployment":
        raise UserError(
            "federation.backend=deployment: real processes are run by `mpssl-fed deploy`; here set it to inprocess or ray"
        )

    # From here on torch and Flower come in: a misspelt key was refused without them.
    have_home()
    with apart_from_caller():
        _simulate(resolved, folder, resume, overwrite, progress, command)
    return Run.open(folder)


def _simulate(resolved: Config, folder: Path, resume: bool, overwrite: bool, progress: Progress | None, command: str) -> None:
    from mpssl_fed.federation.engines.simulation import preflight
    from mpssl_fed.federation.engines.simulation import simulate as run_sites
    from mpssl_fed.runs.lock import holding
    from mpssl_fed.runs.progress import Progress as Silent
    from mpssl_fed.runs.run_directory import open_run
    from mpssl_fed.runs.where import refuse_occupied, refuse_within_data
    from mpssl_fed.runs.written import in_words

    overwrite, resume = overwrite or resolved.output.overwrite, resume or resolved.output.resume
    progress = progress or Silent()
    refuse_within_data(folder, [resolved])
    refuse_occupied(folder, resume=resume, overwrite=overwrite)
    preflight(resolved)
    with holding(folder):
        run = open_run(resolved, folder, resume=resume, overwrite=overwrite, command=command)
        if run.kept:
            progress.note(f"kept in {folder}, as no run wrote it: {in_words(run.kept)}")
        run_sites(run, client_app, progress)


def load(run: Run | str | Path) -> Classifier:
    """Return the trained classifier of a run, or of a ``model.safetensors`` file, on the CPU and in eval mode.

    Also of a folder in the form of the Hugging Face hub, as ``export --format hub`` writes it and the hub's cache keeps it. Raises
    UserError when the file is missing (an unfinished run) or is not one of ours.
    """
    with apart_from_caller():
        from mpssl_fed.runs.model_file import read_model

        return read_model(run.folder if isinstance(run, Run) else expanded(run))


def client_app() -> ClientApp:
    """Return the ClientApp of ``clients/app.py``, which ``flwr run`` starts at a node."""
    app: ClientApp = importlib.import_module("mpssl_fed.flower_app.clients.app").app
    return app


def _folder(output: str | Path | None, config: Config, stem: str) -> Path:
    from mpssl_fed.runs.reader import default_folder

    given = output if output is not None else config.output.dir
    if given is not None and not str(given):
        raise UserError(f"{option('output', 'DIR')}: is empty, want a folder")
    return expanded(given) if given is not None else default_folder(stem)


def _resolve(config: Config | str | Path | Mapping[str, Any], overrides: Sequence[Given]) -> tuple[Config, str]:
    from mpssl_fed import config as configs

    if isinstance(config, configs.Config):
        return (configs.from_mapping(configs.override(config.dump(), overrides)) if overrides else config), "run"
    if isinstance(config, Mapping):
        return configs.from_mapping(configs.override(config, overrides)), "run"
    return configs.load(config, overrides), Path(config).stem
