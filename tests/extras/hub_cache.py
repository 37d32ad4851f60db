"""The hub's cache as `hf download` fills it: what a snapshot names are links to blobs, which are named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path


def into_cache(folder: Path, repo: Path) -> Path:
    """Move all files of ``folder`` into ``repo``, a folder of the cache such as models--OWNER--NAME, and return the snapshot."""
    snapshot, blobs = repo / "snapshots" / "c0ffee", repo / "blobs"
    blobs.mkdir(parents=True)
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        blob = file.rename(blobs / hashlib.sha256(file.read_bytes()).hexdigest())
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(link.relative_to(repo).parts) - 1)) / "blobs" / blob.name)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name)
    return snapshot
