"""Keep only as many classes of a generator as a classifier of real renders can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mpssl_fed.generators.baking import bake
from mpssl_fed.generators.biggan import BigGANGenerator
from mpssl_fed.generators.broad.bank import ScriptBanks, keep_classes, script_of
from mpssl_fed.generators.foundation import GlyphClassifier
from mpssl_fed.generators.pretrain import read_rates
from mpssl_fed.generators.settings import DistilSettings
from mpssl_fed.seeds import torch_rng

if TYPE_CHECKING:
    from pytorch_pretrained_biggan import BigGAN


@dataclass(frozen=True)
class Gate:
    """accuracy: share of G's samples that a classifier must read; fewest: classes at which to give up; per_class: samples of each
    that measure it; classifier_steps: for which the classifier is trained."""

    accuracy: float = 0.6
    fewest: int = 300
    per_class: int = 40
    classifier_steps: int = 8000


GATE = Gate()


@dataclass(frozen=True)
class Made:
    """A trained generator, the glyphs it was taught with those it never saw, and a classifier that never saw what it was taught."""

    model: BigGAN
    banks: ScriptBanks
    classifier: GlyphClassifier


def pass_gate(made: Made, gate: Gate, settings: DistilSettings) -> tuple[Made, dict[str, Any]]:
    """Drop the classes that are read worst until the rest passes; return what is left and a record.

    The record: ``asked`` and ``read`` (shares of samples, the latter of the classes left, on samples that did not choose them),
    ``held``, ``dropped`` class names, and ``by_script``, the share read of each.
    """
    rng = torch_rng(settings.seed, "broad", "gate")
    dropped = list[str]()
    while True:
        classes = made.banks.taught.classes
        rates = read_rates(BigGANGenerator("broad", made.model.eval(), classes, 1.0), made.classifier, rng, gate.per_class)
        kept = _kept(rates, gate)
        if len(kept) == len(classes):
            break
        dropped += [classes[c] for c in sorted(set(range(len(classes))) - set(kept))]
        made = _fewer(made, kept)
        bake(made.model, settings)
    scripts = dict.fromkeys(script_of(name) for name in classes)
    by_script = {
        script: round(rates[[i for i, name in enumerate(classes) if script_of(name) == script]].mean().item(), 3)
        for script in scripts
    }
    read = rates.mean().item()
    held = read >= gate.accuracy and len(classes) >= gate.fewest
    return made, {"asked": gate.accuracy, "read": round(read, 4), "held": held, "dropped": dropped, "by_script": by_script}


def _kept(rates: Tensor, gate: Gate) -> list[int]:
    """Return the most classes, the best read ones, of which together the asked share is read; no fewer than ``gate.fewest``."""
    order = rates.argsort(descending=True, stable=True)
    together = rates[order].cumsum(0) / torch.arange(1, len(rates) + 1)
    count = max(int((together >= gate.accuracy).sum()), min(gate.fewest, len(rates)))
    return sorted(order[:count].tolist())


def _fewer(made: Made, kept: list[int]) -> Made:
    """Return ``made`` with some of its classes: a class is a column of G's embedding and a row of the classifier's head."""
    old, banks = made.model.embeddings, keep_classes(made.banks, kept)
    made.model.embeddings = nn.Linear(len(kept), old.out_features, bias=False)
    classifier = GlyphClassifier(banks.taught.classes)
    classifier.body.load_state_dict(made.classifier.body.state_dict())
    with torch.no_grad():
        made.model.embeddings.weight.copy_(old.weight[:, kept])
        classifier.head.weight.copy_(made.classifier.head.weight[kept])
        classifier.head.bias.copy_(made.classifier.head.bias[kept])
    made.model.config.num_classes = len(kept)
    return Made(made.model, banks, classifier.eval().requires_grad_(False))
