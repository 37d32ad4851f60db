"""Folders of the small generators that are no BigGAN: config.json with a ``kind``, pytorch_model.bin, classes.json."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import GENERATORS, Generator
from mpssl_fed.generators.biggan import (
    CONFIG,
    EMBEDDED,
    WEIGHTS,
    class_names,
    embedded_folder,
    given_folder,
    load_checked,
    load_folder,
    need_files,
    read_json,
    read_weights,
    verify_sums,
)
from mpssl_fed.generators.diffusion import FewStepFlow
from mpssl_fed.generators.vqvae import VQSampler

KINDS: dict[str, type[VQSampler] | type[FewStepFlow]] = {"vqvae": VQSampler, "diffusion": FewStepFlow}
SMALL = ("glyphs-digits-vqvae", "glyphs-digits-diffusion")
SHIPPED = EMBEDDED + SMALL


class SmallGenerator(Generator):
    """A frozen sampler (z, soft label) -> grey logits [n, 1, size, size], shown as three equal channels in [-1, 1]."""

    def __init__(self, name: str, sampler: nn.Module, config: dict[str, Any], classes: tuple[str, ...], truncation: float) -> None:
        super().__init__()
        self.name, self.classes, self.truncation = name, classes, truncation
        self.z_dim, self.size = config["z_dim"], config["size"]
        self.sampler = sampler

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Map z [n, z_dim] and soft_label [n, K] to images [n, 3, size, size] in [-1, 1]."""
        images: Tensor = self.sampler(z, soft_label).tanh()
        return images.expand(-1, 3, -1, -1)


def build_sampler(config: dict[str, Any]) -> VQSampler | FewStepFlow:
    """Return the untrained network of a config.json."""
    kind = KINDS[config["kind"]]
    return kind(config["num_classes"], **{key: config[key] for key in kind.SIZES})


def load_any_folder(folder: Path, name: str, truncation: float = 1.0) -> Generator:
    """Load a generator folder of any kind: config.json's ``kind`` says which, and a file without one is a BigGAN's.

    UserError for a missing or unreadable file, a recorded SHA-256 that differs, an unknown kind, a config, keys or shapes
    that do not fit, or non-finite weights. Float16 weights are loaded to float32.
    """
    need_files(folder)
    config = read_json(folder / CONFIG)
    kind = config.get("kind", "biggan") if isinstance(config, dict) else "biggan"
    if kind == "biggan":
        return load_folder(folder, name, truncation)
    if kind not in KINDS:
        raise UserError(f"{folder / CONFIG}: kind is {kind!r}; it must be biggan, {' or '.join(KINDS)}.")
    verify_sums(folder)
    for key in ("size", "num_classes", *KINDS[kind].SIZES):
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
            raise UserError(f"{folder / CONFIG}: {key} is {value!r}; it must be a whole number from 1 to 4096.")
    if config["size"] != 32:
        raise UserError(f"{folder / CONFIG}: size is {config['size']}; generators of kind {kind} draw 32 pixels a side.")
    sampler = build_sampler(config)
    load_checked(sampler, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    generator = SmallGenerator(name, sampler, config, class_names(folder, config["num_classes"]), truncation)
    generator.eval().requires_grad_(False)
    return generator


@GENERATORS.add("folder")
def _load_folder(path: str | Path | None, truncation: float) -> Generator:
    return load_any_folder(given_folder("folder", path), "folder", truncation)


def _load_shipped(name: str, path: str | Path | None, truncation: float) -> Generator:
    return load_any_folder(Path(path) if path else embedded_folder(name), name, truncation)


for _name in SHIPPED:
    GENERATORS.add(_name)(partial(_load_shipped, _name))
