"""Make the broad generator: many scripts and textures, and only as many classes as a classifier of real renders can read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.generators.biggan import BigGANGenerator
from mpssl_fed.generators.distil import DistilSettings, bake, distil
from mpssl_fed.generators.foundation import GlyphClassifier, train_glyph_classifier
from mpssl_fed.generators.pretrain import Report, read_rates, refuse_occupied, write_folder
from mpssl_fed.generators.script_bank import ScriptBanks, keep_classes, load_scripts, script_of
from mpssl_fed.seeds import torch_rng

if TYPE_CHECKING:
    from pytorch_pretrained_biggan import BigGAN

SETTINGS = DistilSettings(iterations=13000, channel_width=24, embedding=21, batch=32, bake_images=1806)
CLASSIFIER_STEPS = 8000


@dataclass(frozen=True)
class Gate:
    """What share of G's samples a classifier must read, at how few classes to give up, and samples a class to measure it."""

    accuracy: float = 0.6
    fewest: int = 300
    per_class: int = 40


@dataclass(frozen=True)
class Made:
    """A trained generator, the glyphs it was taught with those it never saw, and a classifier that never saw what it was taught."""

    model: BigGAN
    banks: ScriptBanks
    classifier: GlyphClassifier


def pretrain_scripts(
    fonts: Path,
    out: Path,
    settings: DistilSettings = SETTINGS,
    *,
    gate: Gate | None = None,
    classifier_steps: int = CLASSIFIER_STEPS,
    letters: Mapping[str, tuple[str, ...]] | None = None,
    overwrite: bool = False,
    report: Report = print,
) -> dict[str, Any]:
    """Train a generator of ``letters`` (all scripts by default) and textures, drop what is not read; return the manifest.

    The folder appears whole or not at all, as in :func:`pretrain.pretrain`, and the same UserErrors are raised. Ctrl-C while G
    trains keeps what it has learned so far. Where the gate does not hold with its fewest classes, the manifest says so.
    """
    refuse_occupied(out, overwrite)
    if settings.iterations < 1:
        raise UserError(f"--iterations is {settings.iterations}; it must be 1 or more.")
    started = time.process_time()
    banks = load_scripts(fonts, lambda done, total: report("scripts", done, total, None), letters)
    report("scripts", 1, 1, None)
    drawn = time.process_time()
    model, record = distil(banks.taught, settings, lambda done, total, loss: report("distil", done, total, loss))
    taught = time.process_time()
    report("foundation classifier", 0, 1, None)
    judge = train_glyph_classifier(banks.unseen, classifier_steps, settings.seed, unseen=banks.taught)
    report("foundation classifier", 1, 1, None)
    record["glyphs_cpu_seconds"] = round(drawn - started, 1)
    record["classifier_cpu_seconds"] = round(time.process_time() - taught, 1)
    return finish(model, banks, judge, record, settings, out, gate=gate)


def finish(
    model: BigGAN,
    banks: ScriptBanks,
    judge: tuple[GlyphClassifier, dict[str, Any]],
    training: dict[str, Any],
    settings: DistilSettings,
    out: Path,
    *,
    gate: Gate | None = None,
) -> dict[str, Any]:
    """Let ``model`` pass the gate of ``judge`` (a classifier and its record), write the folder ``out``; return the manifest.

    ``training`` is what the manifest says of how the model was trained.
    """
    made, passed = pass_gate(Made(model, banks, judge[0]), gate or Gate(), settings)
    banks = made.banks
    manifest = {
        "class_set": "scripts",
        "settings": asdict(settings),
        "training": training,
        "gate": passed,
        "classes_by_script": dict(Counter(script_of(name) for name in banks.taught.classes)),
        "classes_without_unseen_fonts": len(banks.shared),
        "made_by": f"mpssl-fed pretrain-generator --classes scripts --iterations {settings.iterations} --seed {settings.seed} "
        f"--channel-width {settings.channel_width}",
        "classifier_fonts": [asdict(font) for font in banks.unseen.fonts],
    }
    return write_folder(banks.taught, made.model, (made.classifier, judge[1]), manifest, settings, out)


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
