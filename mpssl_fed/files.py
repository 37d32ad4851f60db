"""Writing whole files or nothing, and naming them by their content."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomic(path: str | Path, content: bytes | str, mode: int = 0o644) -> Path:
    """Write ``content`` so that a reader, a crash or a full disk sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, are fsynced and renamed over ``path``; the folder is fsynced too.
    Missing parent folders are made. Raises OSError (for example a full disk) with the old file untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def write_json(path: str | Path, value: Any, mode: int = 0o644) -> Path:
    """Write ``value`` as indented JSON through :func:`write_atomic`; NaN and infinity are refused with ValueError."""
    return write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", mode)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
