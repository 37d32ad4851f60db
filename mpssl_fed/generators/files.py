"""The files of a generator by their SHA-256, so that none is opened by what would run it before it has been compared.

A torch.export or TorchScript file is a program; any other weights file goes through torch's unpickler.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.files import EXACT
from mpssl_fed.generators.base import GENERATORS
from mpssl_fed.generators.biggan import PUBLISHED, SUMS, cache_folder, embedded_folder
from mpssl_fed.generators.small import SHIPPED

CHUNK, MOST_FILES = 1 << 20, 1000
UNBLOCKED = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""So that a FIFO in the place of a file holds nobody up."""


def comes_installed(name: str) -> bool:
    """Whether generator ``name`` is code and data of an installed package, which is trusted as the rest of it is."""
    return name in SHIPPED or GENERATORS.is_plugin(name)


def place_of(name: str, path: str | Path | None) -> Path | None:
    """Return the file or folder that ``name`` is loaded from where generator.path is ``path``; None where that does not say."""
    if path is not None:
        return Path(path)
    if name in PUBLISHED:
        return cache_folder(name)
    return embedded_folder(name) if name in SHIPPED else None


def files_of(place: Path) -> dict[str, Path]:
    """Return every file that a loader may open, by its name from ``place``: a program and its sidecar, or a folder's in depth.

    UserError where there is none, or more than a generator has.
    """
    if place.is_dir():
        inside = (file for file in sorted(place.rglob("*")) if file.is_file() and file.name != SUMS)
        found = {file.relative_to(place).as_posix(): file for file in inside}
    else:
        found = {file.name: file for file in (place, place.with_suffix(".json")) if file.is_file()}
    if not found or (not place.is_dir() and place.name not in found):
        raise UserError(f"generator {place}: no file there")
    if len(found) > MOST_FILES:
        raise UserError(f"generator {place}: {len(found)} files, more than the {MOST_FILES} of any generator; name its own folder")
    return found


def sums(place: Path) -> dict[str, str]:
    """Return name -> SHA-256 of :func:`files_of`; each is read as bytes, none is loaded."""
    found = {}
    for name, file in files_of(place).items():
        digest = hashlib.sha256()
        for chunk in _chunks(file):
            digest.update(chunk)
        found[name] = digest.hexdigest()
    return found


def copy_approved(place: Path, approved: Mapping[str, str], into: Path) -> Path:
    """Copy the files of ``approved`` (name -> SHA-256) into the new 0700 folder ``into`` and return what to load there.

    The bytes that are compared are the bytes that are copied, so nothing can be put in their place in between; a file that is not
    listed is not there for a loader to open. UserError, and no copy, where a file is missing or another one.
    """
    folder = place if place.is_dir() else place.parent
    if not place.is_dir() and place.name not in approved:
        raise UserError(f"generator {place}: the policy does not list {place.name}")
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True, mode=0o700)
    try:
        for name, wanted in approved.items():
            found = _copy(folder / name, into / name)
            if found != wanted:
                raise UserError(f"generator {folder / name}: its SHA-256 is {found}, the policy lists {wanted}; it was not loaded")
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return into if place.is_dir() else into / place.name


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return the SHA-256 of what was copied."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | EXACT, 0o600), "wb") as out:
        for chunk in _chunks(source):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _chunks(file: Path) -> Iterator[bytes]:
    """Yield a plain file's bytes; UserError for one that cannot be read, a FIFO or a device."""
    try:
        handle = os.open(file, os.O_RDONLY | UNBLOCKED)
    except OSError as error:
        raise UserError(f"generator {file}: cannot be read ({error.strerror})") from error
    with open(handle, "rb") as source:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"generator {file}: is no plain file")
        while chunk := source.read(CHUNK):
            yield chunk
