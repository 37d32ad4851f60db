"""Make the broad generator: glyphs of many scripts, training, the classifier that judges, the gate, the folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.generators.broad.bank import ScriptBanks, load_scripts, script_of
from mpssl_fed.generators.broad.gate import GATE, Gate, Made, pass_gate
from mpssl_fed.generators.distil import distil
from mpssl_fed.generators.foundation import train_glyph_classifier
from mpssl_fed.generators.pretrain import Report, refuse_occupied, write_folder
from mpssl_fed.generators.settings import DistilSettings

SETTINGS = DistilSettings(iterations=13000, channel_width=24, embedding=21, batch=32, bake_images=1806)


@dataclass(frozen=True)
class ScriptSource:
    """What a broad generator learns from, besides textures. fonts: a folder of them; letters: of each script, None for all."""

    fonts: Path
    letters: Mapping[str, tuple[str, ...]] | None = None

    def banks(self, report: Report) -> ScriptBanks:
        """Return the glyphs to teach and those to keep unseen."""
        banks = load_scripts(self.fonts, lambda done, total: report("scripts", done, total, None), self.letters)
        report("scripts", 1, 1, None)
        return banks


def pretrain_scripts(
    source: ScriptSource,
    out: Path,
    settings: DistilSettings = SETTINGS,
    *,
    gate: Gate = GATE,
    overwrite: bool = False,
    report: Report = print,
) -> dict[str, Any]:
    """Train a generator of many scripts and textures, drop what is not read; return the manifest.

    The folder appears whole or not at all, as in :func:`generators.pretrain.pretrain`, and the same UserErrors are raised. Ctrl-C
    while G trains keeps what it has learned so far. Where the gate does not hold with its fewest classes, the manifest says so.
    """
    refuse_occupied(out, overwrite)
    if settings.iterations < 1:
        raise UserError(f"--iterations is {settings.iterations}; it must be 1 or more.")
    started = time.process_time()
    banks = source.banks(report)
    drawn = time.process_time()
    model, training = distil(banks.taught, settings, lambda done, total, loss: report("distil", done, total, loss))
    taught = time.process_time()
    report("foundation classifier", 0, 1, None)
    classifier, record = train_glyph_classifier(banks.unseen, gate.classifier_steps, settings.seed, unseen=banks.taught)
    report("foundation classifier", 1, 1, None)
    training["glyphs_cpu_seconds"] = round(drawn - started, 1)
    training["classifier_cpu_seconds"] = round(time.process_time() - taught, 1)
    return finish(Made(model, banks, classifier), (record, training), settings, out, gate)


def finish(
    made: Made, records: tuple[dict[str, Any], dict[str, Any]], settings: DistilSettings, out: Path, gate: Gate = GATE
) -> dict[str, Any]:
    """Let what was trained pass the gate, write the folder ``out``; return the manifest.

    ``records`` are what the manifest says of how the classifier and the generator were trained.
    """
    judged, training = records
    made, passed = pass_gate(made, gate, settings)
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
    return write_folder(banks.taught, made.model, (made.classifier, judged), settings, manifest, out)
