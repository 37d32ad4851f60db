"""Submitting a run to a SuperLink that is up, following it, and its true end: Flower's own command reports success on failure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.deployment import superlink as control
from mpssl_fed.errors import UserError
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import MANIFEST, read_history, read_manifest
from mpssl_fed.runs.where import refuse_occupied, refuse_within_data

LOOK_EVERY_S, ASK_EVERY_S, MOST_UNANSWERED = 0.5, 20.0, 3


def submit(
    flower: control.FlowerCommand,
    config: Config,
    run: Path,
    scratch: Path,
    progress: Progress,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run ``config`` on the sites of a SuperLink on this machine, into the folder ``run``, and return the run's manifest.

    ``config.output`` says whether a run there is continued or overwritten; ``scratch``: a folder for the bundle; ``alive`` raises
    when the run can no longer end well. UserError with the server's reason when the run fails. KeyboardInterrupt stops the run at
    the SuperLink, too; its checkpoints stay.
    """
    resume = config.output.resume
    refuse_within_data(run, [config])
    refuse_occupied(run, resume=resume, overwrite=config.output.overwrite)
    config = with_absolute_paths(config)
    federation = config.federation.model_copy(update={"backend": "deployment"})
    output = config.output.model_copy(update={"dir": str(run)})
    config = config.model_copy(update={"federation": federation, "output": output})
    shown = len(read_history(run)) if resume else 0
    before = _manifest(run)
    run_id = flower.submit(control.write_bundle(scratch / "mpssl-fed", config))
    progress.start(config, str(run))
    if config.privacy.idle():
        progress.note(config.privacy.idle())
    try:
        _follow(flower, run_id, run, progress, shown, alive)
    except KeyboardInterrupt:
        flower.stop(run_id)
        raise
    finally:
        progress.end()
    manifest = _manifest(run)
    if manifest == before:
        raise UserError(f"run {run_id} wrote nothing to {run}; is the SuperLink on this machine?")
    return manifest


def with_absolute_paths(config: Config) -> Config:
    """Return ``config`` with every path from the folder that this process runs in: the server's process runs in another."""

    def absolute(section: Any, *keys: str) -> Any:
        paths = {key: getattr(section, key) for key in keys}
        return section.model_copy(update={key: str(Path(path).expanduser().absolute()) for key, path in paths.items() if path})

    sections = {
        "data": absolute(config.data, "root"),
        "generator": absolute(config.generator, "path", "foundation"),
        "model": absolute(config.model, "pretrained"),
        "output": absolute(config.output, "dir"),
    }
    return config.model_copy(update=sections)


def _follow(
    flower: control.FlowerCommand, run_id: str, run: Path, progress: Progress, shown: int, alive: Callable[[], None]
) -> None:
    asked, unanswered = time.monotonic(), 0
    while True:
        alive()
        manifest = _manifest(run)
        mine = str(manifest.get("flower_run")) == run_id
        history = read_history(run) if mine else []
        for record in history[shown:]:
            progress.round(record)
            asked = time.monotonic()
        shown = max(shown, len(history))
        if mine and manifest["status"] == "finished":
            return
        if (mine and manifest["status"] == "failed") or time.monotonic() - asked > ASK_EVERY_S:
            try:
                (said, why), unanswered = flower.status(run_id), 0
            except UserError:  # a busy SuperLink is no reason to give a run up; one that stays silent is
                said, why, unanswered = "not known", "", unanswered + 1
                if unanswered == MOST_UNANSWERED:
                    raise
            asked = time.monotonic()
            manifest = _manifest(run)
            mine = str(manifest.get("flower_run")) == run_id
            if said.startswith("finished") and not (mine and manifest["status"] == "finished"):
                reason = (mine and manifest.get("error")) or why or "see the log of the SuperLink"
                raise UserError(f"the run ended as '{said}': {reason}")
        time.sleep(LOOK_EVERY_S)


def _manifest(run: Path) -> dict[str, Any]:
    """Return the manifest as it stands; empty before there is one, or in the moment in which it is replaced."""
    if not (run / MANIFEST).is_file():
        return {}
    try:
        return read_manifest(run)
    except (UserError, json.JSONDecodeError):
        return {}
