"""Where a run may be written: in a folder that is free or a run's own, and not among the images it reads. Brings no torch in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mpssl_fed.config import Config
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, flag, option
from mpssl_fed.files import real
from mpssl_fed.runs.lock import LOCK, refuse_held
from mpssl_fed.runs.reader import MANIFEST, STUDY, read_manifest
from mpssl_fed.runs.written import refuse_to_clear


def refuse_occupied(folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise UserError unless ``folder`` is free, or is a run that nobody is writing and may be continued or overwritten."""
    if resume and overwrite:
        raise UserError(f"{flag('resume')} and {flag('overwrite')} are both given; choose one")
    elsewhere = f"choose another by {option('output', 'DIR')}"
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"output.dir={folder}: is a link to nothing; remove it or {elsewhere}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output.dir={folder}: is a file, want a folder")
    names = [item.name for item in folder.iterdir() if item.name != LOCK] if folder.is_dir() else []
    if folder.is_dir():
        refuse_held(folder)
    if all(name.startswith(f".{MANIFEST}.") for name in names):  # killed while it wrote its first file
        return
    if STUDY in names:
        raise UserError(f"run directory {folder} holds a study with all its runs; {elsewhere}")
    if MANIFEST not in names:
        raise UserError(f"run directory {folder} exists and is not a run, so nothing here deletes it; {elsewhere}")
    read_manifest(folder)  # another program's manifest.json, or a damaged one, is refused
    if overwrite:
        refuse_to_clear(folder)
    elif not resume:
        ways = f"{flag('resume')} continues it, {flag('overwrite')} deletes what it wrote"
        raise UserError(f"run directory {folder} exists; {ways}; or {elsewhere}")


def refuse_within_data(folder: Path, configs: Iterable[Config]) -> None:
    """Raise UserError where ``folder`` lies among the images of an image-folder: the next reader would take it for a class."""
    for root in dict.fromkeys(one.data.root for one in configs if one.data.name == "image-folder" and one.data.root):
        for part in ("train", "test"):
            images = expanded(root) / part
            if images.is_dir() and real(folder).is_relative_to(real(images)):
                raise UserError(
                    f"output.dir={folder}: lies among the images of data.root, in {images}, and would be read as a class; "
                    f"choose another by {option('output', 'DIR')}"
                )
