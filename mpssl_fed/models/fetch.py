"""Download torchvision's ImageNet weights of a ResNet from where torchvision says they are, checked against their name."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlparse

import torchvision

from mpssl_fed import environment
from mpssl_fed.download import download
from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256

WEIGHTS = {"resnet18": "ResNet18_Weights", "resnet50": "ResNet50_Weights"}


def fetch_resnet(name: str) -> Path:
    """Put the IMAGENET1K_V1 weights of ``name`` into the cache and return the file, for ``model.pretrained``.

    torchvision's file names end in the first digits of their SHA-256, which the file must have. UserError for an unknown
    name, no network, or a file that is another.
    """
    if name not in WEIGHTS:
        raise UserError(f"no ImageNet weights are known for '{name}'; known: {', '.join(WEIGHTS)}")
    url = getattr(torchvision.models, WEIGHTS[name]).IMAGENET1K_V1.url
    filename = Path(urlparse(url).path).name
    file = download(url, environment.cache_folder() / "models" / filename)
    return checked_by_name(file)


def checked_by_name(file: Path) -> Path:
    """Return ``file`` if its SHA-256 begins with the digits in its name (``NAME-DIGITS.pth``); else remove it and raise."""
    found = re.search(r"-([0-9a-f]{8,})\.\w+$", file.name)
    digest = sha256(file)
    if found and not digest.startswith(found[1]):
        file.unlink()
        raise UserError(f"{file}: SHA-256 is {digest}, which does not begin with {found[1]}; the file was removed, fetch it again")
    return file
