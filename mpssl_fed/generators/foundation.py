"""Foundation classifiers: p(foundation label | image), what P-SSL conditions on. A small CNN each for the shipped generators."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.files import write_atomic, write_json
from mpssl_fed.generators.base import fit_images
from mpssl_fed.generators.biggan import PUBLISHED, embedded_folder, load_checked, read_json, read_weights
from mpssl_fed.generators.small import SHIPPED
from mpssl_fed.seeds import initialising, seed_of, torch_rng

if TYPE_CHECKING:
    from mpssl_fed.generators.glyphs import GlyphBank

Model = TypeVar("Model", bound=nn.Module)

FILE, CARD = "foundation.safetensors", "foundation.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GlyphClassifier(nn.Module):
    """GroupNorm CNN: images [n, 1 or 3, H, W] in [-1, 1], seen as 32 x 32 grey, to logits [n, K]."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes
        widths = (1, 24, 48, 72)
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, b), nn.ReLU())
            for a, b in pairwise(widths)
        ]
        self.body = nn.Sequential(*blocks, nn.AvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * widths[-1], len(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, K]."""
        logits: Tensor = self.head(self.body(fit_images(x, 1, 32)))
        return logits


class ImageNetClassifier(nn.Module):
    """A torchvision ResNet behind ImageNet's normalisation: images [n, 1 or 3, H, W] in [-1, 1] to logits [n, 1000]."""

    mean: Tensor
    std: Tensor

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.resnet = resnet
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, 1000] of the images at 224 x 224."""
        unit = (fit_images(x, 3, 224) + 1) / 2
        logits: Tensor = self.resnet((unit - self.mean) / self.std)
        return logits


def foundation_classifier(name: str, path: str | Path | None = None) -> nn.Module:
    """Return the frozen classifier over the foundation labels of generator ``name``.

    For a shipped generator it lies beside it (``path`` overrides the folder); for biggan-deep-* ``path`` is the weights
    file of a torchvision ResNet-18/34/50 trained on ImageNet. UserError where there is none or the file does not fit.
    """
    if name in PUBLISHED:
        if path is None:
            raise UserError(f"p-ssl with {name} needs an ImageNet classifier: name the weights file of a torchvision ResNet.")
        return _frozen(ImageNetClassifier(_resnet(Path(path))))
    if name not in SHIPPED and path is None:
        raise UserError(f"generator '{name}' has no foundation classifier; {', '.join(SHIPPED + PUBLISHED)} have one.")
    folder = Path(path) if path else embedded_folder(name)
    if not (folder / CARD).is_file() or not (folder / FILE).is_file():
        raise UserError(f"{folder} has no foundation classifier ({FILE} and {CARD}).")
    model = GlyphClassifier(tuple(read_json(folder / CARD)["classes"]))
    try:
        state = load_file(folder / FILE)
    except SafetensorError as error:
        raise UserError(f"{folder / FILE} is not a readable safetensors file: {error}") from error
    load_checked(model, state, folder / FILE)
    return _frozen(model)


def train_glyph_classifier(
    bank: GlyphBank, steps: int, seed: int, unseen: GlyphBank | None = None
) -> tuple[GlyphClassifier, dict[str, Any]]:
    """Train on renders and return the classifier, its weights exact in float16, and a record with ``held_out_accuracy``.

    That is measured on renders of ``unseen``, a bank of the same classes; without it on every tenth font of ``bank``, which is
    then not trained on.
    """
    from mpssl_fed.generators.baking import round_to_half  # here: it imports BigGAN's package, which takes seconds
    from mpssl_fed.generators.renders import RenderStream

    with initialising(seed_of(seed, "foundation", "initial weights")):
        model = GlyphClassifier(bank.classes)
    held_out = np.zeros(len(bank.fonts), bool)
    if unseen is None and len(bank.fonts) >= 20:
        held_out = np.arange(len(bank.fonts)) % 10 == 9
    stream = RenderStream(bank, torch_rng(seed, "foundation", "train"), ~held_out)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        x, y, _, _ = stream.draw(64)
        loss = F.cross_entropy(model(x), y, label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    round_to_half(model)
    some = None if unseen else held_out if held_out.any() else ~held_out
    tested = RenderStream(unseen or bank, torch_rng(seed, "foundation", "test"), some)
    x, y, _, _ = tested.draw(2000)
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    fonts = len(unseen.fonts) if unseen else int(held_out.sum())
    return _frozen(model), {"steps": steps, "held_out_fonts": fonts, "held_out_accuracy": round(accuracy, 4)}


def save_glyph_classifier(model: GlyphClassifier, record: dict[str, Any], folder: Path) -> None:
    """Write foundation.safetensors, in float16, and foundation.json into ``folder``."""
    write_atomic(folder / FILE, save({key: value.half() for key, value in model.state_dict().items()}))
    write_json(folder / CARD, {"input": "grey, 32 x 32, [-1, 1]", **record, "classes": list(model.classes)})


def _resnet(path: Path) -> nn.Module:
    from torchvision import models

    if not path.is_file():
        raise UserError(f"ImageNet classifier weights {path} do not exist.")
    state = read_weights(path)
    if "layer3.5.conv3.weight" in state:
        build = models.resnet50
    else:
        build = models.resnet34 if "layer3.5.conv2.weight" in state else models.resnet18
    model: nn.Module = build()
    load_checked(model, state, path)
    return model


def _frozen(model: Model) -> Model:
    return model.eval().requires_grad_(False)
