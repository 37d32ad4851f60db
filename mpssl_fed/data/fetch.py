"""`mpssl-fed fetch NAME`: the public data sets' archives, in the layout that their readers expect.

Addresses and MD5 sums are torchvision's own, of MedMNIST its package's; Omniglot's SHA-256 are tensorflow-datasets'. Where
torchvision has none, the user gives the address, or puts the files in place.
"""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mpssl_fed.download import download
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError
from mpssl_fed.files import parse_json, read_text, write_json
from mpssl_fed.files import sha256 as file_sha256
from mpssl_fed.names import shown
from mpssl_fed.registry import Registry


@dataclass(frozen=True)
class Archive:
    """A file to fetch into ``root/folder``: kept as it is, or unpacked, which makes ``unpacked`` appear there.

    first_use: nobody publishes its SHA-256, so that of what passed the MD5 is kept in sha256.json beside it and checked from then.
    """

    url: str
    md5: str | None = None
    folder: str = "."
    unpacked: str = ""
    sha256: str | None = None
    first_use: bool = False

    @property
    def filename(self) -> str:
        return Path(urlparse(self.url).path).name

    def target(self, root: Path) -> Path:
        """What is there once the archive has been fetched."""
        return root / self.folder / (self.unpacked or self.filename)


SUMS = "sha256.json"
"""Beside files that were trusted on first use: name -> SHA-256."""

ARCHIVES: Registry[Callable[[], list[Archive]]] = Registry("archives")


def fetch_dataset(name: str, root: str | Path, url: str | None = None, sha256: str | None = None) -> list[Path]:
    """Fetch and unpack the data set ``name`` below ``root``; return what is there now. What is there already is kept.

    ``url`` replaces the first archive's address (a mirror, or a set of which torchvision knows none) and ``sha256`` checks
    it. Raises UserError with the file names and folders when there is no address, no network or a wrong checksum.
    """
    root = expanded(root)
    archives = ARCHIVES[name]()
    # A mirror's file may be newer than torchvision's sum; with an own SHA-256 that sum decides.
    if sha256:
        archives[0] = replace(archives[0], sha256=sha256, md5=None)
    archives[0] = replace(archives[0], url=url or archives[0].url)
    for archive in archives:
        target = archive.target(root)
        if target.exists() and (archive.unpacked or not (archive.md5 or archive.sha256)):
            continue
        if not archive.url:
            raise UserError(
                f"data set '{name}': torchvision names no address for it. Put its official files at {target}, or give the "
                f"archive's address: mpssl-fed fetch {name} --url URL --sha256 HEX"
            )
        if urlparse(archive.url).scheme not in ("http", "https"):
            raise UserError(f"data set '{name}': '{archive.url}' is no http(s) address")
        known = archive.sha256 or (_recorded(target) if archive.first_use else None)
        file = download(archive.url, root / archive.folder / archive.filename, archive.md5, known)
        if archive.first_use:
            write_json(target.parent / SUMS, {**_sums(target.parent), target.name: file_sha256(target)})
        if archive.unpacked:
            unpack(file, archive.unpacked)
            file.unlink()
    return [archive.target(root) for archive in archives]


def check_first_use(file: Path) -> None:
    """Raise UserError where ``file`` is not the one that was fetched, by sha256.json beside it; where that says nothing, pass."""
    recorded = _recorded(file)
    if recorded and (found := file_sha256(file)) != recorded:
        raise UserError(
            f"{shown(file)}: its SHA-256 is {found}, and was {recorded} when it was fetched; fetch it again, or, if you put "
            f"another there, take its line out of {SUMS}"
        )


def _recorded(file: Path) -> str | None:
    found = _sums(file.parent).get(file.name)
    return found if isinstance(found, str) else None


def _sums(folder: Path) -> dict[str, Any]:
    if not (folder / SUMS).is_file():
        return {}
    try:
        found = parse_json(read_text(folder / SUMS))
    except ValueError as error:
        raise UserError(f"{shown(folder / SUMS)}: no JSON ({error}); remove it, and the files are trusted anew") from error
    return found if isinstance(found, dict) else {}


def unpack(file: Path, expected: str) -> None:
    """Unpack a .tar.* or .zip beside itself, so that its top folder ``expected`` appears whole or not at all.

    Raises UserError for a broken archive, one that reaches outside its folder, or one without ``expected``.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".unpack-") as scratch:
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    archive.extractall(scratch)  # drops absolute paths and ".."
            else:
                with tarfile.open(file) as tar:
                    tar.extractall(scratch, filter="data")
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot unpack {file}: {error}. Remove it and fetch it again") from error
        if not (Path(scratch) / expected).is_dir():
            raise UserError(f"{file} holds no folder '{expected}'; it is another archive than expected")
        # The expected folder last: its presence means that all is there. What the user has there is never replaced.
        for entry in sorted(Path(scratch).iterdir(), key=lambda entry: entry.name == expected):
            place = file.parent / entry.name
            if not place.exists():
                entry.rename(place)


@ARCHIVES.add("aircraft")
def _aircraft() -> list[Archive]:
    from torchvision.datasets import FGVCAircraft

    return [Archive(FGVCAircraft._URL, unpacked="fgvc-aircraft-2013b")]


@ARCHIVES.add("birds")
def _birds() -> list[Archive]:
    return [Archive("", unpacked="CUB_200_2011")]


@ARCHIVES.add("cars")
def _cars() -> list[Archive]:
    return [Archive("", unpacked="stanford_cars")]


@ARCHIVES.add("cifar10")
def _cifar10() -> list[Archive]:
    from torchvision.datasets import CIFAR10

    return [Archive(CIFAR10.url, CIFAR10.tgz_md5, unpacked=CIFAR10.base_folder)]


@ARCHIVES.add("dtd")
def _dtd() -> list[Archive]:
    from torchvision.datasets import DTD

    return [Archive(DTD._URL, DTD._MD5, "dtd", "dtd")]


@ARCHIVES.add("fashion-mnist")
def _fashion_mnist() -> list[Archive]:
    from torchvision.datasets import FashionMNIST

    mirror = FashionMNIST.mirrors[0]
    return [Archive(f"{mirror}{name}", md5, "FashionMNIST/raw") for name, md5 in FashionMNIST.resources]


@ARCHIVES.add("flowers")
def _flowers() -> list[Archive]:
    from torchvision.datasets import Flowers102

    unpacked = {"image": "jpg"}
    return [
        Archive(Flowers102._download_url_prefix + name, md5, "flowers-102", unpacked.get(part, ""))
        for part, (name, md5) in Flowers102._file_dict.items()
    ]


@ARCHIVES.add("pets")
def _pets() -> list[Archive]:
    from torchvision.datasets import OxfordIIITPet

    names = ("images", "annotations")
    pairs = zip(OxfordIIITPet._RESOURCES, names, strict=True)
    return [Archive(url, md5, "oxford-iiit-pet", name) for (url, md5), name in pairs]
