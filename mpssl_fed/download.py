"""One file over HTTP: continued where it stopped, checked, and in place only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.files import write_json

CHUNK = 1 << 20
TIMEOUT_S = 60


def download(url: str, path: Path, md5: str | None = None, sha256: str | None = None) -> Path:
    """Fetch ``url`` to ``path`` and return it; a file already there that passes the checks is kept.

    Bytes gather in ``PATH.part``; a later call goes on from there by HTTP Range if the server's file is still the same (its
    ETag or date, else the checksum decides). Raises UserError when there is no network, the transfer breaks off, the disk
    is full or a checksum differs; it says where to put the file by hand.
    """
    if path.is_file() and _wrong_digest(path, md5, sha256) is None:
        return path
    part, notes = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    by_hand = f"Run it again to go on, or get {url} by other means and put it at {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _transfer(url, part, notes, resumable=bool(md5 or sha256))
        wrong = _wrong_digest(part, md5, sha256)
        if wrong:
            part.unlink()
            raise UserError(f"{url}: {wrong}; the file was thrown away. {by_hand}")
        part.replace(path)
        notes.unlink(missing_ok=True)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"download of {url} to {path} failed: {error}. {by_hand}") from error
    return path


def _transfer(url: str, part: Path, notes: Path, resumable: bool) -> None:
    done, validator = _resume_point(url, part, notes, resumable)
    headers = {"User-Agent": "mpssl-fed", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-"} | ({"If-Range": validator} if validator else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:  # 416: nothing lies beyond what we have
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":
            return
        part.unlink()
        response = urllib.request.urlopen(urllib.request.Request(url), timeout=TIMEOUT_S)
    with response:
        if response.status != 206 or not (response.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
            done = 0
        # Weak ETags may name different bytes, so they cannot guard a continuation.
        etag = response.headers.get("ETag") or ""
        fresh = response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
        if not done:  # before the notes: killed in between, they would vouch for bytes of another file
            part.unlink(missing_ok=True)
        write_json(notes, {"url": url, "validator": fresh})
        _append(response, part, done)


def _append(response: HTTPResponse, part: Path, done: int) -> None:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    length = response.headers.get("Content-Length")
    total = None if length is None else done + int(length)
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with open(part, "ab" if done else "wb") as file, progress:
        task = progress.add_task(part.name.removesuffix(".part"), total=total, completed=done)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress.update(task, completed=done)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _resume_point(url: str, part: Path, notes: Path, resumable: bool) -> tuple[int, str]:
    try:
        known = json.loads(notes.read_text())
        validator = str(known["validator"]) if known["url"] == url else None
        done = part.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""
    return (done, validator) if validator or (validator == "" and resumable) else (0, "")


def _wrong_digest(path: Path, md5: str | None, sha256: str | None) -> str | None:
    for name, expected in (("md5", md5), ("sha256", sha256)):
        if expected is None:
            continue
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.new, name, usedforsecurity=False)).hexdigest()
        if found != expected.lower():
            return f"its {name} is {found}, not the expected {expected}"
    return None
