"""What a run writes into its folder, told from what its owner put there: only the first is ever deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from mpssl_fed.errors import UserError, flag, option
from mpssl_fed.runs.lock import LOCK
from mpssl_fed.runs.reader import CONFIG, DIAGNOSIS_FILE, EVALUATION, MANIFEST, MODEL

CARD, CARD_MARK = "README.md", "<!-- model card made by mpssl-fed dossier -->"
"""A run's card of its model, and the line by which it is told from a README of the user's own."""

TOP = (
    MANIFEST, CONFIG, MODEL, DIAGNOSIS_FILE, EVALUATION, "metrics.jsonl", "metrics.csv", "labels.json", "generator.png",
    "report.html", "dossier.html", "dossier.md",
)  # fmt: skip
PLOTS = ("accuracy", "loss", "curves", "labels", "reliability")
OF_A_SITE = (
    *(f"ledger.sqlite{end}" for end in ("", ".key", ".head", ".lock", ".unfinished", "-journal")),
    "samples.png", "site-report.html", "site.sock", "dossier.html", "dossier.md", "about-the-data.txt",
    "held-out.key",  # of a rehearsal's site
    "*-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors", "rounds/*-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors",
)  # fmt: skip
FILES = (
    *TOP,
    "result.json",
    *(f"checkpoints/{name}.{kind}" for name in ("last", "best") for kind in ("safetensors", "json")),
    *(f"plots/{name}.{kind}" for name in PLOTS for kind in ("svg", "png")),
    "tensorboard/events.out.tfevents.*",
    *(f"mlflow/mlflow.db{end}" for end in ("", "-journal", "-wal", "-shm")),
    *(f"logs/{name}.log" for name in ("superlink", "daemon-*", "supernode-*")),
    *(f"sites/*/{name}" for name in OF_A_SITE),
)
"""Files of a run, as patterns of paths below its folder."""

FOLDERS = ("checkpoints", "plots", "tensorboard", "mlflow", "logs", "sites", "sites/*", "sites/*/rounds")
"""Folders of a run, removed once they are empty."""


def refuse_to_clear(folder: Path) -> None:
    """Raise UserError where deleting the run in ``folder`` would take the ground from under the user, or reach beyond it."""
    here = _here()
    if here is not None and (here == folder.resolve() or folder.resolve() in here.parents):
        raise UserError(
            f"run directory {folder} is the folder that you are in, or holds it; {flag('overwrite')} does not delete that: "
            f"go elsewhere, or choose another by {option('output', 'DIR')}"
        )
    for path in _below(folder, Path()):
        if path.is_symlink() and _matches(path.relative_to(folder), FOLDERS):
            raise UserError(
                f"run directory {folder}: {path} is a link to another folder, through which {flag('overwrite')} deletes nothing; "
                "remove the link"
            )


def clear(folder: Path, keep: tuple[str, ...] = ()) -> list[str]:
    """Delete what a run wrote in ``folder``, but for the names in ``keep``; return the rest that stays, as paths below it.

    Follows no link; a link in the place of a file of ours goes, what it points to stays.
    """
    kept = []
    for path in list(_below(folder, Path())):
        name = path.relative_to(folder)
        if path.is_dir() and not path.is_symlink():
            if _matches(name, FOLDERS) and not any(path.iterdir()):
                path.rmdir()
            elif not _matches(name, FOLDERS):
                kept.append(f"{name}/")
        elif is_ours(name) or (str(name) == CARD and is_card(path)):
            if str(name) not in keep:
                path.unlink()
        elif str(name) != LOCK:
            kept.append(str(name))
    return sorted(kept)


def in_words(kept: list[str]) -> str:
    """Return what :func:`clear` left as a few words."""
    return ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")


def _below(folder: Path, name: Path) -> Iterator[Path]:
    """Yield what lies in ``folder`` and in folders of a run below it, the inner first; a link is not followed."""
    with os.scandir(folder / name) as entries:
        names = sorted(entry.name for entry in entries)
    for entry in names:
        path = folder / name / entry
        if path.is_dir() and not path.is_symlink() and _matches(name / entry, FOLDERS):
            yield from _below(folder, name / entry)
        yield path


def is_ours(name: Path) -> bool:
    """Whether the file ``name``, a path below a run's folder, is of a run, or is what a kill left of one that was being written."""
    if _matches(name, FILES):
        return True
    stem, dot, tail = name.name.removeprefix(".").rpartition(".")  # files.write_atomic's temporary: .NAME.xxxxxxxx
    return name.name.startswith(".") and bool(dot) and len(tail) == 8 and _matches(name.with_name(stem or "?"), FILES)


def is_card(file: Path) -> bool:
    """Whether ``file`` is a model's card that ``mpssl-fed dossier`` wrote."""
    return not file.is_symlink() and file.is_file() and CARD_MARK in file.read_text(encoding="utf-8", errors="replace")


def _matches(name: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern part by part."""
    for pattern in patterns:
        parts = pattern.split("/")
        if len(parts) == len(name.parts) and all(fnmatchcase(part, want) for part, want in zip(name.parts, parts, strict=True)):
            return True
    return False


def _here() -> Path | None:
    try:
        return Path.cwd().resolve()
    except OSError:  # the folder that this process started in is gone
        return None
