"""Download the published BigGAN-deep weights from where their package says they are; sums recorded."""

from __future__ import annotations

import re
from pathlib import Path

from mpssl_fed.download import download
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import sha256, write_json
from mpssl_fed.generators.biggan import CONFIG, PUBLISHED, SUMS, WEIGHTS, cache_folder, read_json, verify_sums


def fetch(name: str, weights_sha256: str | None = None) -> Path:
    """Put config.json and pytorch_model.bin of ``name`` into the cache folder and return it.

    An interrupted download continues where it stopped. The official sums are not known to this project: the weights are
    checked against ``weights_sha256`` where it is given, and otherwise trusted on first use. Either way the sums are
    written to sha256.json beside them and checked on every load. UserError for an unknown name, a failed download (what
    came so far stays) or a wrong sum (the file is removed).
    """
    from pytorch_pretrained_biggan.model import PRETRAINED_CONFIG_ARCHIVE_MAP, PRETRAINED_MODEL_ARCHIVE_MAP

    if name not in PUBLISHED:
        raise UserError(f"nothing to fetch under the name '{name}'.{nearest(name, PUBLISHED)} Known: {', '.join(PUBLISHED)}.")
    folder = cache_folder(name)
    known = read_json(folder / SUMS) if (folder / SUMS).is_file() else {}
    expected = {WEIGHTS: _checked_digest(weights_sha256) or known.get(WEIGHTS), CONFIG: known.get(CONFIG)}
    if weights_sha256 and (folder / WEIGHTS).is_file() and sha256(folder / WEIGHTS) != expected[WEIGHTS]:
        raise UserError(f"{folder / WEIGHTS}: SHA-256 is {sha256(folder / WEIGHTS)}, expected {expected[WEIGHTS]}; move it away")
    verify_sums(folder)
    for file, url in ((CONFIG, PRETRAINED_CONFIG_ARCHIVE_MAP[name]), (WEIGHTS, PRETRAINED_MODEL_ARCHIVE_MAP[name])):
        if not (folder / file).is_file():
            download(url, folder / file, sha256=expected[file])
    write_json(folder / SUMS, {file: sha256(folder / file) for file in (WEIGHTS, CONFIG)})
    return folder


def _checked_digest(digest: str | None) -> str | None:
    if digest and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UserError(f"--sha256 '{digest}' is not 64 hexadecimal digits.")
    return digest.lower() if digest else None
