"""Reading a run directory: its rounds, manifest, resolved config and sites; never writing one. Brings no torch in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpssl_fed.config import Config, load, read_mapping
from mpssl_fed.errors import UserError, flag
from mpssl_fed.files import parse_json, read_text
from mpssl_fed.runs.rounds import Round, is_number, read_rounds

if TYPE_CHECKING:
    from mpssl_fed.metrics import Metrics

MANIFEST, CONFIG, MODEL = "manifest.json", "config.yaml", "model.safetensors"
METRICS = "metrics.jsonl"
DIAGNOSIS_FILE = "diagnosis.json"
EVALUATION = "evaluation.json"

CLEARING = "clearing"
"""The manifest's status while ``overwrite`` deletes the run before; what else lies there may be of that one."""

STUDY = "study.yaml"
"""In a study's folder, whose top shows the files of one of its runs."""


@dataclass(frozen=True)
class RunReader:
    """A run directory on disk. Every read raises UserError that names the file when it is missing or damaged."""

    path: Path

    @cached_property
    def rounds(self) -> list[Round]:
        """The lines of metrics.jsonl in order; the first is the initial model. A last line cut by a kill is left out."""
        file = self.path / METRICS
        try:
            rounds = read_rounds(file)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); is {self.path} the directory of a run?") from error
        if not rounds:
            raise UserError(f"{file}: holds no round yet")
        return rounds

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, every key of today's schema there."""
        return read_config(self.path).dump()

    @cached_property
    def metrics(self) -> Metrics | None:
        """What clinical users report of the final model; None before the end, without held-out images and of older runs."""
        file = self.path / EVALUATION
        if not file.is_file():
            return None
        from mpssl_fed.metrics import Metrics  # here: it brings numpy in

        try:
            return Metrics.from_json(read_json(file))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file}: damaged ({type(error).__name__}: {error}); remove it to have the report without it"
            ) from error

    @property
    def config_text(self) -> str:
        """The text of config.yaml."""
        return read_text(self.path / CONFIG)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest; empty where there is none."""
        return read_manifest(self.path) if (self.path / MANIFEST).is_file() else {}

    @property
    def sites(self) -> list[Path]:
        """Folders of simulated sites, by number where they are numbers."""
        folders = [folder for folder in (self.path / "sites").glob("*") if folder.is_dir()]
        return sorted(folders, key=lambda folder: (not folder.name.isdigit(), folder.name.zfill(9)))

    @property
    def accuracy(self) -> list[tuple[int, float]]:
        """(round, accuracy) of the rounds that were evaluated."""
        return [(one.number, float(one.accuracy)) for one in self.rounds if one.accuracy is not None]

    @property
    def loss(self) -> list[tuple[int, float]]:
        """(round, loss on the held-out images) of the rounds in which it was finite."""
        return [(one.number, float(one.loss)) for one in self.rounds if one.loss is not None]

    @property
    def train_loss(self) -> list[tuple[int, float]]:
        """(round, training loss) of the rounds in which sites told theirs."""
        return [(one.number, float(one.train_loss)) for one in self.rounds if one.train_loss is not None]

    @property
    def held_out(self) -> str:
        """What accuracy and loss are of: ``test`` or ``validation``; version 0.1 did not say it in a round."""
        said = next((one.evaluated for one in reversed(self.rounds) if one.evaluated), None)
        return said or str(self.config["data"].get("held_out", "test"))

    def timing(self, phase: str) -> float:
        """Return the seconds of a phase (train, generate, serialise, aggregate) over all rounds."""
        return sum(float(one.timings.get(phase, 0.0)) for one in self.rounds)

    @property
    def seconds(self) -> float:
        """Seconds of all rounds, those before a resume included."""
        return sum(one.seconds for one in self.rounds)


def read_diagnosis(folder: Path) -> dict[str, Any] | None:
    """Return the diagnosis of the run in ``folder``; None where none was written."""
    file = folder / DIAGNOSIS_FILE
    if not file.is_file():
        return None
    found = read_json(file)
    measured = found.get("synthetic")
    if not isinstance(measured, dict) or not all(is_number(value) for value in measured.values()):
        raise UserError(f"{file}: damaged, its 'synthetic' is no table of numbers; remove it, the next report measures anew")
    return found


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; UserError when it cannot be read, is cut or holds something else."""
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}); it is damaged or cut") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds {type(content).__name__}, want an object; it is damaged")
    return content


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return manifest.json of the run in ``folder``; UserError when the folder is not a run, or the file is damaged."""
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{folder}: not a run directory (no readable {MANIFEST})")
    manifest = read_json(file)
    if not isinstance(manifest.get("run_id"), str):
        raise UserError(f"{file}: names no run_id; it is damaged, or not of a run")
    return manifest


def refuse_half_cleared(folder: Path) -> None:
    """Raise UserError where a process was ended while it deleted an earlier run: what is left of it is not this run's."""
    try:
        status = read_manifest(folder).get("status")
    except UserError:  # no run, which is for others to say
        return
    if status == CLEARING:
        raise UserError(
            f"{folder}: a process was ended while it deleted the run before, of which files are left; start again with "
            f"{flag('resume')} or {flag('overwrite')}"
        )


def is_run(folder: Path) -> bool:
    """Return whether ``folder`` is a run: another program's manifest.json does not make it one."""
    try:
        read_manifest(folder)
    except UserError:
        return False
    return True


def default_folder(stem: str, study: bool = False) -> Path:
    """Return ``runs/STEM``, or ``runs/STEM-run`` for a run where that holds a study, ``runs/STEM-study`` the other way round."""
    folder = Path("runs") / stem
    is_study = (folder / STUDY).is_file()
    if study:
        return folder.with_name(f"{stem}-study") if not is_study and (folder / MANIFEST).is_file() else folder
    return folder.with_name(f"{stem}-run") if is_study else folder


def read_history(folder: Path) -> list[Round]:
    """Return the rounds of metrics.jsonl; empty for a run that has none yet."""
    return read_rounds(folder / METRICS) if (folder / METRICS).is_file() else []


def read_config(folder: Path) -> Config:
    """Return the resolved config of the run in ``folder``; UserError when it is missing, damaged or cut."""
    file = folder / CONFIG
    refuse_half_cleared(folder)
    if not file.is_file():
        raise UserError(f"{folder}: not a run directory (no {CONFIG})")
    there = read_mapping(file)
    cut = [key for key in Config.model_fields if key not in there]
    if cut or not read_text(file).endswith("\n"):
        raise UserError(
            f"{file}: it is cut or was edited: {f'no {cut[0]}' if cut else 'its last line has no end'}; a run spells every key out"
        )
    return load(file)
