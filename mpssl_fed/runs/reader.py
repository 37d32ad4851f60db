"""Reading a run directory: its rounds, manifest, resolved config and sites; never writing one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mpssl_fed.config import Config, load
from mpssl_fed.errors import UserError
from mpssl_fed.runs.checkpoint import History

DIAGNOSIS_FILE = "diagnosis.json"

Round = dict[str, Any]
"""One line of metrics.jsonl."""


@dataclass(frozen=True)
class RunReader:
    """A run directory on disk. Every read raises UserError that names the file when it is missing or damaged."""

    path: Path

    @cached_property
    def rounds(self) -> list[Round]:
        """The lines of metrics.jsonl in order; the first is the initial model. A last line cut by a kill is left out."""
        file = self.path / "metrics.jsonl"
        try:
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); is {self.path} the directory of a run?") from error
        rounds = []
        for number, line in enumerate(lines, start=1):
            try:
                rounds.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise UserError(f"{file}, line {number}: not valid JSON: {error}") from error
        if not rounds:
            raise UserError(f"{file}: holds no round yet")
        return rounds

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config as written."""
        return dict(yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")))

    @property
    def config_text(self) -> str:
        """The text of config.yaml."""
        return (self.path / "config.yaml").read_text(encoding="utf-8")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest; empty for a run that did not end."""
        file = self.path / "manifest.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}

    @property
    def sites(self) -> list[Path]:
        """Folders of simulated sites, by number where they are numbers."""
        folders = [folder for folder in (self.path / "sites").glob("*") if folder.is_dir()]
        return sorted(folders, key=lambda folder: (not folder.name.isdigit(), folder.name.zfill(9)))

    def evaluated(self, metric: str) -> list[tuple[int, float]]:
        """Return (round, value) of the rounds in which ``metric`` was measured."""
        return [(entry["round"], float(entry[metric])) for entry in self.rounds if entry.get(metric) is not None]

    def timing(self, phase: str) -> float:
        """Return the seconds of a phase (train, generate, serialise, aggregate) over all rounds."""
        return sum(float(entry.get("timings", {}).get(phase, 0.0)) for entry in self.rounds)

    @property
    def seconds(self) -> float:
        """Seconds of all rounds, those before a resume included."""
        return sum(float(entry.get("seconds") or 0.0) for entry in self.rounds)


def read_diagnosis(folder: Path) -> dict[str, Any] | None:
    """Return the diagnosis of the run in ``folder``; None where none was written."""
    file = folder / DIAGNOSIS_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


MANIFEST, CONFIG, MODEL = "manifest.json", "config.yaml", "model.safetensors"


STUDY = "study.yaml"
"""In a study's folder, whose top shows the files of one of its runs."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return manifest.json of the run in ``folder``; UserError when the folder is not a run."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder}: not a run directory (no readable {MANIFEST})") from error
    except ValueError as error:
        raise UserError(f"{folder}/{MANIFEST}: not valid JSON ({error})") from error
    return manifest


def read_history(folder: Path) -> History:
    """Return the records of metrics.jsonl; empty for a run that has none yet."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def read_config(folder: Path) -> Config:
    """Return the resolved config of the run in ``folder``."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not a run directory (no {CONFIG})")
    return load(folder / CONFIG)
