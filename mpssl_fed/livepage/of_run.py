"""A run as it goes: its curve, who answered, who did not and why, what it takes and what is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.livepage.curve import curve
from mpssl_fed.livepage.view import View, reasons, short
from mpssl_fed.names import shown
from mpssl_fed.report.table import NOTHING, Table, duration, make_table, seconds_words
from mpssl_fed.runs.lock import is_held
from mpssl_fed.runs.reader import CONFIG, MANIFEST, METRICS, read_config, read_history, read_manifest
from mpssl_fed.runs.rounds import Round

SHOWN_ROUNDS, PACE = 30, 5
"""Rounds in the table; last rounds that tell the pace."""

MOST_BYTES = 32 << 20
"""Of a file, which is read anew at each look: some 50,000 rounds."""


def view_of_run(folder: Path) -> View:
    """Return the run in ``folder`` at this moment; UserError while it cannot be told."""
    require_short(folder)
    manifest, config, rounds = read_manifest(folder), read_config(folder), read_history(folder)
    running = goes_on(folder, manifest)
    done, total = (rounds[-1].number if rounds else 0), config.private_rounds
    counts: Counter[str] = Counter()
    for one in rounds:
        counts.update({"missing": one.missing, **one.rejected})
    facts = [("round", f"{done} of {total}"), ("time of rounds", duration(sum(one.seconds for one in rounds)))]
    accuracy = [(one.number, float(one.accuracy)) for one in rounds if one.accuracy is not None]
    if accuracy:
        facts.insert(0, (f"{config.data.held_out} accuracy", f"{100 * accuracy[-1][1]:.1f} %"))
    if running:
        facts.append(("time left", _left(rounds, done, total, folder)))
    if config.privacy.on:
        facts.append(("epsilon asked for", f"{config.privacy.epsilon:g}" if config.privacy.epsilon else NOTHING))
    tables = [("Rounds", _rounds(rounds))]
    if +counts:
        tables.append(("Who did not answer, or declined, and why", reasons(+counts, "replies")))
    return View(
        heading=shown(folder.absolute().name),
        small=f"{config.method.name or 'own method'}, {config.federation.sites} sites, {config.federation.backend}",
        finding=_finding(manifest, running, done, total),
        warnings=_warnings(manifest, rounds, running),
        facts=facts,
        curve=curve(f"{config.data.held_out.capitalize()} accuracy (%)", [(config.method.name or "run", accuracy)], total),
        tables=tables,
    )


def require_short(folder: Path) -> None:
    """Raise UserError where a file of the run in ``folder`` is larger than what is read at each look."""
    for file in (folder / MANIFEST, folder / CONFIG, folder / METRICS):
        if file.is_file() and (size := file.stat().st_size) > MOST_BYTES:
            raise UserError(f"{file}: {size >> 20} MiB, more than the {MOST_BYTES >> 20} that a live page reads; see report.html")


def goes_on(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether a process is writing the run; one that was killed leaves the word "running" behind, and no lock."""
    return manifest.get("status") == "running" and is_held(folder)


def _finding(manifest: dict[str, Any], running: bool, done: int, total: int) -> str:
    status = short(manifest.get("status"))
    if running:
        return f"Round {done + 1} of {total} is going on." if done < total else "All rounds are done; the model is being written."
    if status == "finished":
        return f"Finished after {done} round{'' if done == 1 else 's'}."
    if status == "running":
        return f"No process writes here any more: it ended after round {done} of {total}. --resume goes on from there."
    return f"{status.capitalize()} after round {done} of {total}. --resume goes on from there."


def _warnings(manifest: dict[str, Any], rounds: Sequence[Round], running: bool) -> list[str]:
    said = [short(manifest["error"])] if manifest.get("error") and not running else []
    failed = [str(one.number) for one in rounds if one.failed]
    return said + ([f"Rounds that failed, so that the weights stayed: {', '.join(failed[-10:])}."] if failed else [])


def _left(rounds: Sequence[Round], done: int, total: int, folder: Path) -> str:
    last = [one.seconds for one in rounds if one.number][-PACE:]
    if not last:
        return "not known yet"
    since = max(0.0, time.time() - (folder / METRICS).stat().st_mtime)
    left = (total - done) * sum(last) / len(last) - since
    return f"about {duration(left)}" if left > 0 else "longer than the last rounds took"


def _rounds(rounds: Sequence[Round]) -> Table:
    lines = [
        [
            str(one.number),
            f"{one.answered} of {one.asked}" if one.asked else NOTHING,
            short(", ".join([*one.left_out(), *([f"{one.missing} missing"] if one.missing else [])])) or NOTHING,
            NOTHING if one.accuracy is None else f"{100 * one.accuracy:.1f}",
            NOTHING if one.train_loss is None else _loss(one.train_loss),
            seconds_words(one.seconds),
        ]
        for one in list(reversed(rounds))[:SHOWN_ROUNDS]
    ]
    return make_table(["round", "answered", "not", "accuracy (%)", "training loss", "time"], lines, ["answered", "not"])


def _loss(value: float) -> str:
    """Return what sites told, which may be anything finite."""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.3g}"
