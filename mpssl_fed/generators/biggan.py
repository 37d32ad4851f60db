"""BigGAN generators: the unmodified class of pytorch_pretrained_biggan, loaded from a folder with every file checked."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_spectral_norm
from torch.nn.utils.spectral_norm import SpectralNorm

from mpssl_fed import environment
from mpssl_fed.errors import UserError
from mpssl_fed.files import parse_json, plain_file, sha256, write_json
from mpssl_fed.generators.base import GENERATORS, Generator

if TYPE_CHECKING:
    from pytorch_pretrained_biggan import BigGAN

CONFIG, WEIGHTS, CLASSES, MANIFEST, SUMS = ("config.json", "pytorch_model.bin", "classes.json", "manifest.json", "sha256.json")
EMBEDDED = ("glyphs-digits", "glyphs-letters", "glyphs-broad")
PUBLISHED = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512")


class BigGANGenerator(Generator):
    """A frozen BigGAN at one truncation."""

    def __init__(self, name: str, model: BigGAN, classes: tuple[str, ...], truncation: float) -> None:
        super().__init__()
        config = model.config
        self.name, self.classes, self.z_dim = name, classes, int(config.z_dim)
        self.size = 4 * 2 ** sum(bool(layer[0]) for layer in config.layers)
        self.truncation = truncation
        self._argument = argument_for_row(truncation, config.n_stats)
        self.model = model

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Map z [n, z_dim] and soft_label [n, K] to images [n, 3, size, size] in [-1, 1]."""
        images: Tensor = self.model(z, soft_label, self._argument)
        return images

    def train(self, mode: bool = True) -> BigGANGenerator:
        """Stay in eval mode whatever is asked: a frozen generator has nothing to train."""
        super().train(False)
        return self


def load_folder(folder: Path, name: str, truncation: float = 1.0) -> BigGANGenerator:
    """Load config.json + pytorch_model.bin (and classes.json, where there is one) from ``folder``.

    What ``BigGAN.from_pretrained(folder)`` does, with the checks it leaves out. UserError for a missing or unreadable
    file, a recorded SHA-256 that differs, keys or shapes that do not fit the config, non-finite weights, class names
    that do not fit, or a truncation for which the file holds no statistics. Float16 weights are loaded to float32.
    """
    environment.have_home()  # the package asks for one as it is imported
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig  # here: importing it takes seconds

    need_files(folder)
    verify_sums(folder)
    config = _read_config(folder / CONFIG)
    state = read_weights(folder / WEIGHTS)
    model = BigGAN(BigGANConfig.from_dict(config))
    load_checked(model, state, folder / WEIGHTS)
    model.eval()
    fold_spectral_norm(model)
    model.requires_grad_(False)
    return BigGANGenerator(name, model, class_names(folder, config["num_classes"]), truncation)


def argument_for_row(truncation: float, n_stats: int) -> float:
    """Return the argument in (0, 1] with which the package uses the statistics of ``truncation`` and of no other row.

    BigGANBatchNorm splits truncation x (n_stats - 1) by ``math.modf`` and, where that leaves a fraction f, weighs rows k
    and k + 1 by f and 1 - f: swapped. So .14 of 51 rows (7.000000000000001) gives row 8. Where no float near the row is
    split exactly, one just above the row below it is: f is 1e-16 there and the swap works in our favour. UserError where
    ``truncation`` is no row.
    """
    step = 1.0 / (n_stats - 1)
    row = round(truncation / step)
    if row < 1 or abs(truncation - row * step) > 1e-6:
        low, high = max(1, math.floor(truncation / step)) * step, min(n_stats - 1, math.ceil(truncation / step)) * step
        raise UserError(
            f"generator.truncation is {truncation}, but this generator holds statistics for multiples of {step:.4g} "
            f"only. Use {low:.4g} or {high:.4g}."
        )
    exact = [value for value in _neighbours(row * step) if math.modf(value / step) == (0.0, row)]
    below = [
        value
        for value in _neighbours((row - 1) * step)
        if value > 0 and math.floor(value / step) == row - 1 and 0 < value / step - (row - 1) < 1e-9
    ]
    return min(exact + below, key=lambda value: abs(value - row * step))


def _neighbours(value: float) -> list[float]:
    up, down = [value], [value]
    for _ in range(8):
        up.append(math.nextafter(up[-1], 2.0))
        down.append(math.nextafter(down[-1], -1.0))
    return [candidate for candidate in up + down if candidate <= 1]


def fold_spectral_norm(model: nn.Module) -> None:
    """Replace each spectrally normalised weight by its value W / sigma; the output stays the same.

    Sigma is taken in float64 and rounded once, so that the folded weights, and so the state hash, are the same on every
    machine.
    """
    for module in list(model.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, SpectralNorm):
                weight = getattr(module, f"{hook.name}_orig").detach()
                u, v = getattr(module, f"{hook.name}_u").double(), getattr(module, f"{hook.name}_v").double()
                matrix = hook.reshape_weight_to_matrix(weight).double()
                folded = weight / torch.dot(u, matrix @ v).to(weight.dtype)
                remove_spectral_norm(module, hook.name)
                getattr(module, hook.name).data.copy_(folded)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a file's state dict by ``torch.load(weights_only=True)``; UserError if it is none or holds NaN or infinity."""
    try:
        state = torch.load(plain_file(path), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make torch's unpickler raise anything
        raise UserError(
            f"{path} is not a readable weights file: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict (a table of named tensors).")
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise UserError(f"{path}: non-finite values in {_few(bad)}. The file is damaged or its training diverged.")
    return state


def load_checked(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load ``state``, or raise a UserError that lists missing, unexpected and mis-shaped keys."""
    expected = model.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if shapes:
        raise UserError(f"{path} does not fit {CONFIG}: {_few(shapes)}.")
    # Not strict, as torch then reports files of older torch versions (no weight_v) as broken; the report is checked.
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        parts = [f"missing {_few(missing)}"] if missing else []
        parts += [f"unexpected {_few(unexpected)}"] if unexpected else []
        raise UserError(f"{path} does not fit {CONFIG}: {'; '.join(parts)}.")


def cache_folder(name: str) -> Path:
    """Return where the published weights ``name`` are kept: $XDG_CACHE_HOME/mpssl-fed/generators/NAME."""
    return environment.cache_folder() / "generators" / name


def embedded_folder(name: str) -> Path:
    """Return the folder of a generator that the package ships."""
    return Path(__file__).parent / "embedded" / name


def need_files(folder: Path) -> None:
    """UserError unless ``folder`` holds a config and weights."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"generator folder {folder} has no {file}; it needs {CONFIG} and {WEIGHTS}.")


def given_folder(name: str, path: str | Path | None) -> Path:
    """Return generator.path of a generator that always needs one; UserError where it is not set."""
    if path is None:
        raise UserError(f"generator '{name}' needs generator.path: a folder with {CONFIG} and {WEIGHTS}.")
    return Path(path)


def verify_sums(folder: Path, record: bool = False) -> None:
    """Check the files against sha256.json or the manifest beside them; with ``record``, note the sums if there are none.

    Trust on first use: it shows that files changed since, not that they were right at first. UserError on a difference.
    """
    for file in (SUMS, MANIFEST):
        if (folder / file).is_file():
            recorded = read_json(folder / file)
            sums = recorded if file == SUMS else recorded.get("sha256", {})
            for target, digest in sums.items():
                if (folder / target).is_file() and sha256(folder / target) != digest:
                    raise UserError(
                        f"{folder / target} differs from the SHA-256 recorded in {file}. Fetch it anew, or delete {file} "
                        "if you replaced it on purpose."
                    )
            return
    if record and os.access(folder, os.W_OK):
        write_json(folder / SUMS, {file: sha256(folder / file) for file in (WEIGHTS, CONFIG)})


def read_json(path: Path) -> Any:
    """Return a JSON file's content; UserError when it cannot be read."""
    try:
        return parse_json(plain_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold a JSON object.")
    for key, least in (("z_dim", 1), ("channel_width", 4), ("num_classes", 2), ("n_stats", 2)):
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{path}: {key} is {value!r}; it must be a whole number, {least} or more.")
    layers = config.get("layers")
    inward = 16
    for index, layer in enumerate(layers if isinstance(layers, list) else []):
        if not isinstance(layer, list) or len(layer) != 3 or layer[1] != inward or layer[2] not in (inward, inward / 2):
            raise UserError(f"{path}: layers[{index}] is {layer!r}; expected [up-sample, {inward}, {inward} or half of it].")
        inward = layer[2]
    if not layers or inward != 1:
        raise UserError(f"{path}: layers is {layers!r}; it must be a list that leads from 16 channel widths to 1.")
    return {"attention_layer_position": -1, "eps": 1e-4, **config}


def class_names(folder: Path, count: int) -> tuple[str, ...]:
    """Return classes.json's names; without the file ImageNet's for 1000 classes, else numbers. UserError where they do not fit."""
    path = folder / CLASSES
    if path.is_file():
        names = read_json(path)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path} must hold a list of class names.")
        if len(names) != count or len(set(names)) != count:
            raise UserError(f"{path} has {len(set(names))} distinct names; {CONFIG} says num_classes {count}.")
        return tuple(names)
    if count != 1000:
        return tuple(map(str, range(count)))
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def _few(items: list[str]) -> str:
    return ", ".join(items[:4]) + (f" and {len(items) - 4} more" if len(items) > 4 else "")


def _load_published(name: str, path: str | Path | None, truncation: float) -> Generator:
    folder = Path(path) if path else cache_folder(name)
    if not path and not (folder / WEIGHTS).is_file():
        raise UserError(
            f"the weights of {name} are not on this machine. Run 'mpssl-fed fetch {name}', or put its {CONFIG} and "
            f"{WEIGHTS} into {folder}, or name their folder in generator.path."
        )
    generator = load_folder(folder, name, truncation)
    if not path:
        verify_sums(folder, record=True)
    return generator


@GENERATORS.add("biggan")
def _load_any(path: str | Path | None, truncation: float) -> Generator:
    return load_folder(given_folder("biggan", path), "biggan", truncation)


for _name in PUBLISHED:
    GENERATORS.add(_name)(partial(_load_published, _name))
