"""Writing whole files or nothing, and naming them by their content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError

SHORT = ("/tmp", "/var/tmp", "/dev/shm")
"""Where a folder of a short name is made."""


EXACT = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""What a file is opened with: for this process alone, not through a link, byte for byte; as far as the system knows it."""


class FullDiskError(UserError, OSError):
    """There was no room for a file. The text names it; what it held before is untouched."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: not written, the disk is full; make room and start again")
        self.strerror = "the disk is full"  # as every OSError says its reason
        self._path = path

    def __reduce__(self) -> tuple[type[FullDiskError], tuple[Path]]:
        """Go to another process as it is."""
        return FullDiskError, (self._path,)


def write_atomic(path: str | Path, content: bytes | str, mode: int = 0o644, durable: bool = True) -> Path:
    """Write ``content`` so that a reader, a crash or a full disk sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, are fsynced and renamed over ``path``; the folder is fsynced too.
    Missing parent folders are made; the user's umask may take more of ``mode`` away. Raises OSError, of a full disk FullDiskError,
    with the old file untouched; so too where a folder, a device, a FIFO or a socket stands there, which a rename by root would put
    away (/dev/null for the whole machine).

    durable: without it nothing is fsynced, and what a loss of power leaves may be the old file, the new one or an empty one.
    """
    path = Path(path)
    refuse_special(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        _replace(path, data, mode, durable=durable)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(path) from error
        raise
    return path


def write_new(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """Write ``content`` as :func:`write_atomic` does, where nothing is yet; FileExistsError where another process came first."""
    refuse_special(path)
    _replace(path, content, mode, new=True)
    return path


def kept_secret(file: Path, length: int) -> bytes:
    """Return the ``length`` random bytes in ``file`` (0600), drawn where there is none. UserError for a file of another length."""
    with suppress(FileExistsError):  # another process made it at the same moment
        if not file.exists():
            write_new(file, os.urandom(length), mode=0o600)
    secret = file.read_bytes()
    if len(secret) != length:
        raise UserError(f"{file}: {len(secret)} bytes, want the {length} that were written; put a backup of it back")
    return secret


def refuse_special(path: Path) -> None:
    """Raise OSError where ``path`` is there, or is a link to something, and is no plain file; and for links such as /dev/stdout."""
    if path.is_symlink() and path.parent.resolve().parts[1:2] in (("dev",), ("proc",)):
        raise OSError(errno.EINVAL, "is a link of the system, want a file", str(path))
    with suppress(FileNotFoundError):
        plain_file(path)


def _replace(path: Path, data: bytes, mode: int, new: bool = False, durable: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _temporary(path, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if new:
            _name_once(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, where the system opens folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name_once(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, it fails where a file is
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.replace(path)  # a file system without links
        return
    temporary.unlink()


def _temporary(path: Path, mode: int) -> tuple[int, Path]:
    """Open a new file beside ``path``, ``.NAME.xxxxxxxx``; an OSError names ``path``, which alone its reader knows."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            return os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | EXACT, mode), temporary
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def read_text(file: Path) -> str:
    """Return a plain file's text; UserError that names it where it is not UTF-8."""
    try:
        return plain_file(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not text in UTF-8 ({error}); it is damaged") from error


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says; ValueError for what is none, a key given twice, and nesting that no reader here takes."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def write_json(path: str | Path, value: Any, mode: int = 0o644) -> Path:
    """Write ``value`` as indented JSON through :func:`write_atomic`; NaN and infinity are refused with ValueError."""
    return write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", mode)


def real(path: Path) -> Path:
    """Return ``path`` with its links resolved; one that leads to itself stays, where Path.resolve raises a RuntimeError."""
    return Path(os.path.realpath(path))


def plain_file(path: str | Path) -> Path:
    """Return ``path`` as it is. OSError for what is no file to read: nothing, a folder, a FIFO, a device (they may never end)."""
    mode = os.stat(path).st_mode  # noqa: PTH116  as open() takes it, a number or an empty text is no place
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a device, a FIFO or a socket, want a file", str(path))
    return Path(path)


def readable(path: Path) -> Path:
    """Return ``path``; OSError that says why where it cannot be read, for readers that take every reason for "no such file"."""
    with open(plain_file(path), "rb"):
        return path


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with open(plain_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def short_folder(longest: int, why: str) -> Iterator[Path]:
    """Give the folder for temporary files or, where its path has more than ``longest`` bytes, a new 0700 one that goes afterwards.

    Paths of Unix sockets are limited to 107 bytes. why: who needs it, for the UserError where no shorter place can be written.
    """
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) <= longest:
        yield Path(usual)
        return
    for place in SHORT:
        with suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix="mpssl-", dir=place))
            break
    else:
        raise UserError(f"TMPDIR={usual}: {len(os.fsencode(usual))} bytes long, {why}; set TMPDIR to a folder of at most {longest}")
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
