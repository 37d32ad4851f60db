"""Download the published BigGAN-deep weights from where their package says they are: resumable, atomic, sums recorded."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import sha256, write_json
from mpssl_fed.generators.biggan import CONFIG, PUBLISHED, SUMS, WEIGHTS, cache_folder, read_json, verify_sums

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
Progress = Callable[[str, int, int | None], None]
"""(file, bytes so far, bytes in all where the server says so)."""


def fetch(name: str, weights_sha256: str | None = None, progress: Progress | None = None) -> Path:
    """Put config.json and pytorch_model.bin of ``name`` into the cache folder and return it.

    A part file left by an earlier try is continued. The official sums are not known to this project: the weights are
    checked against ``weights_sha256`` where it is given, and otherwise trusted on first use. Either way the sums are
    written to sha256.json beside them and checked on every load. UserError for an unknown name, a failed download (the
    part file stays) or a wrong sum (the file is removed).
    """
    from pytorch_pretrained_biggan.model import PRETRAINED_CONFIG_ARCHIVE_MAP, PRETRAINED_MODEL_ARCHIVE_MAP

    if name not in PUBLISHED:
        raise UserError(f"nothing to fetch under the name '{name}'.{nearest(name, PUBLISHED)} Known: {', '.join(PUBLISHED)}.")
    folder = cache_folder(name)
    known = read_json(folder / SUMS) if (folder / SUMS).is_file() else {}
    expected = {WEIGHTS: _checked_digest(weights_sha256) or known.get(WEIGHTS), CONFIG: known.get(CONFIG)}
    sources = {CONFIG: PRETRAINED_CONFIG_ARCHIVE_MAP[name], WEIGHTS: PRETRAINED_MODEL_ARCHIVE_MAP[name]}
    folder.mkdir(parents=True, exist_ok=True)
    for file, url in sources.items():
        if not (folder / file).is_file():
            part = folder / f"{file}.part"
            _download(url, part, file, progress)
            _check(part, expected[file], folder / file)
            part.rename(folder / file)
    if weights_sha256:
        _check(folder / WEIGHTS, expected[WEIGHTS], folder / WEIGHTS)
    verify_sums(folder)
    write_json(folder / SUMS, {file: sha256(folder / file) for file in (WEIGHTS, CONFIG)})
    return folder


def _checked_digest(digest: str | None) -> str | None:
    if digest and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UserError(f"--sha256 '{digest}' is not 64 hexadecimal digits.")
    return digest.lower() if digest else None


def _check(file: Path, expected: str | None, shown: Path) -> None:
    found = sha256(file)
    if expected and found != expected:
        if file != shown:
            file.unlink()
        raise UserError(f"{shown}: SHA-256 is {found}, expected {expected}. It was not installed; fetch it again.")


def _download(url: str, part: Path, file: str, progress: Progress | None) -> None:
    """Append to ``part`` what the server still has; start over where it cannot continue."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            if reply.status != http.client.PARTIAL_CONTENT:
                done = 0
            length = reply.headers.get("Content-Length")
            total = done + int(length) if length else None
            with part.open("ab" if done else "wb") as out:
                while chunk := reply.read(CHUNK):
                    out.write(chunk)
                    done += len(chunk)
                    if progress:
                        progress(file, done, total)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and done:
                return  # the part file was already whole
            raise UserError(f"{url} answered {error.code} {error.reason}. {_by_hand(part)}") from error
    except (OSError, http.client.HTTPException) as error:  # no route, no name, time-out, cut connection
        raise UserError(f"{url} cannot be reached: {error}. {_by_hand(part)}") from error
    if total is not None and done < total:
        raise UserError(f"{url} ended after {done} of {total} bytes; run the same command again to continue.")


def _by_hand(part: Path) -> str:
    return f"This machine may be offline: try again later, or put {CONFIG} and {WEIGHTS} into {part.parent} by hand."
