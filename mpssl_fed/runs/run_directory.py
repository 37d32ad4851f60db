"""A run on disk: config, manifest, metrics, checkpoints, the trained model (docs/design.md, section 8)."""

from __future__ import annotations

import csv
import io
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

from mpssl_fed.config import Config
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError, flag, option
from mpssl_fed.files import write_atomic, write_json
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.metrics import Metrics
from mpssl_fed.models import Classifier
from mpssl_fed.runs import checkpoint
from mpssl_fed.runs.checkpoint import Checkpoint
from mpssl_fed.runs.manifest import facts, now
from mpssl_fed.runs.reader import CLEARING, CONFIG, EVALUATION, MANIFEST, MODEL, read_config, read_manifest
from mpssl_fed.runs.rounds import History
from mpssl_fed.runs.where import refuse_occupied
from mpssl_fed.runs.written import clear, refuse_to_clear


@dataclass
class RunDirectory:
    """The folder of one run; make one with :func:`open_run`."""

    folder: Path
    run_id: str
    config: Config
    kept: list[str] = field(default_factory=list)
    """What an overwritten run left in the folder because it had not written it."""

    @property
    def sites(self) -> Path:
        """Folder of the simulated sites' state."""
        return self.folder / "sites"

    def checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint of this run, None before the first."""
        found = checkpoint.load(self.folder / "checkpoints" / "last.safetensors")
        if found is not None and found.run_id != self.run_id:
            raise UserError(
                f"{self.folder}/checkpoints: of run {found.run_id}, not of {self.run_id}; start with {flag('overwrite')}"
            )
        return found

    def save(self, state: Checkpoint) -> None:
        """Write the checkpoint, then the metrics files from its history."""
        checkpoint.save(self.folder / "checkpoints", state)
        self.write_metrics(state.history)

    def write_metrics(self, history: History) -> None:
        """Write metrics.jsonl and metrics.csv whole, so a resumed run never has a round twice."""
        write_atomic(self.folder / "metrics.jsonl", "".join(json.dumps(one.to_json(), allow_nan=False) + "\n" for one in history))
        rows = [one.flat() for one in history]
        table = io.StringIO()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.folder / "metrics.csv", table.getvalue())

    def write_model(self, classifier: Classifier, preparation: Preparation) -> None:
        """Write model.safetensors: every weight and buffer, and in the header all that is needed to build the classifier.

        The header also says how an image file becomes its input: ``preparation`` for this toolkit, ``preprocessing`` for others.
        """
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in classifier.state_dict().items()}
        header = {
            "architecture": json.dumps(classifier.architecture()),
            "normalisation": "[-1, 1]",
            "preparation": preparation.to_json(),
            "preprocessing": json.dumps(preparation.steps(classifier.size, classifier.channels)),
            "classes": json.dumps(list(classifier.classes)),
            "run": self.run_id,
        }
        write_atomic(self.folder / MODEL, safetensors.torch.save(tensors, header))

    def write_evaluation(self, found: Metrics | None) -> None:
        """Write evaluation.json: the metrics of the final model on the held-out images, where there are any."""
        if found is not None:
            write_json(self.folder / EVALUATION, found.to_json())

    def update_manifest(self, **fields: Any) -> None:
        """Set fields of manifest.json and keep the others."""
        write_json(self.folder / MANIFEST, read_manifest(self.folder) | fields)

    def last_words(self, **fields: Any) -> None:
        """Set fields of manifest.json while an error passes: that they cannot be written must not hide that error."""
        with suppress(OSError, UserError):
            self.update_manifest(**fields)


def open_run(config: Config, folder: Path, *, resume: bool = False, overwrite: bool = False, command: str = "") -> RunDirectory:
    """Make the run directory ``folder``, or reopen it; hold it meanwhile (:func:`mpssl_fed.runs.lock.holding`).

    A folder that exists is refused with UserError, unless ``resume`` (and the config is the same; a run killed before it wrote
    anything starts anew) or ``overwrite``, which deletes what the run in it wrote and leaves the rest (``kept``).
    """
    # The flags are of this start, not of the run: started again from its config.yaml it must not overwrite anything.
    flags = {"dir": str(folder), "resume": False, "overwrite": False}
    config = config.model_copy(update={"output": config.output.model_copy(update=flags)})
    refuse_occupied(folder, resume=resume, overwrite=overwrite)
    if resume and (folder / MANIFEST).is_file():
        return _reopen(config, folder)
    run = RunDirectory(folder, secrets.token_hex(8), config)
    # The new manifest before the old run goes: killed in between, the folder is still a run that may be overwritten or begun.
    occupied = (folder / MANIFEST).is_file()
    manifest = {"run_id": run.run_id, "status": CLEARING if occupied else "running", "command": command} | facts(config)
    write_json(folder / MANIFEST, manifest)
    run.kept = clear(folder, keep=(MANIFEST,))
    write_atomic(folder / CONFIG, config.to_yaml())
    if occupied:
        run.update_manifest(status="running")
    return run


def _reopen(config: Config, folder: Path) -> RunDirectory:
    manifest = read_manifest(folder)
    if manifest.get("method_version", 1) != METHOD_VERSION:  # version 1 did not write its number
        raise UserError(
            f"run directory {folder} was begun with version {manifest.get('method_version', 1)} of the method, this is version "
            f"{METHOD_VERSION}: half a run each is neither. Finish it with the release that began it, or start anew: "
            f"{flag('overwrite')}, or another {option('output', 'DIR')}"
        )
    if manifest.get("config_sha256") != config.sha256():
        raise UserError(
            f"run directory {folder} was made with another config: {_difference(folder, config)}. "
            f"{flag('resume')} continues the same run; choose another {option('output', 'DIR')} for a new one"
        )
    run = RunDirectory(folder, manifest["run_id"], config)
    if manifest.get("status") == CLEARING:
        refuse_to_clear(folder)
        run.kept = clear(folder, keep=(MANIFEST,))
    write_atomic(folder / CONFIG, config.to_yaml())
    before = manifest.get("resumed")
    run.update_manifest(status="running", resumed=[*(before if isinstance(before, list) else []), now()])
    return run


def _difference(folder: Path, config: Config) -> str:
    if not (folder / CONFIG).is_file():
        return "its config.yaml is missing"
    was, wanted = _leaves(read_config(folder).dump()), _leaves(config.dump())
    changed = [
        key
        for key in wanted
        if was.get(key) != wanted[key] and not key.startswith(("output.", "federation.backend", "federation.workers"))
    ]
    return ", ".join(f"{key} was {was.get(key)}, now {wanted[key]}" for key in changed[:4]) or "written by another version"


def _leaves(fields: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(fields, dict):
        return {path: fields}
    leaves: dict[str, Any] = {}
    for key, value in fields.items():
        leaves |= _leaves(value, f"{path}.{key}" if path else key)
    return leaves
