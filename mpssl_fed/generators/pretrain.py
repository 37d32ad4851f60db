"""Make a generator folder from fonts: glyphs, training, foundation classifier, quality numbers, manifest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256, write_atomic, write_json
from mpssl_fed.generators.base import Generator
from mpssl_fed.generators.biggan import CLASSES, CONFIG, MANIFEST, SUMS, WEIGHTS, read_json
from mpssl_fed.generators.distil import distil
from mpssl_fed.generators.foundation import CARD, FILE, GlyphClassifier, save_glyph_classifier, train_glyph_classifier
from mpssl_fed.generators.glyphs import GlyphBank, class_set, load_glyphs, look_alike
from mpssl_fed.generators.renders import RenderStream
from mpssl_fed.generators.settings import DistilSettings, SmallSettings
from mpssl_fed.generators.small import load_any_folder
from mpssl_fed.generators.train_small import train_small
from mpssl_fed.seeds import torch_rng

MAX_BYTES = 3_000_000
Report = Callable[[str, int, int, float | None], None]
"""(stage, done, total, mean loss or None)."""


@dataclass(frozen=True)
class GlyphSource:
    """What a generator learns from. fonts: a folder of them; classes: a class set, or ``chars:`` and the characters; least: fonts
    that have all classes, UserError for fewer; most: fonts that are read, None for all."""

    fonts: Path
    classes: str
    least: int = 100
    most: int | None = None

    def glyphs(self, report: Report) -> GlyphBank:
        """Return the glyphs of the classes."""
        read = class_set(self.classes), self.least, self.most
        bank = load_glyphs(self.fonts, *read, lambda done, total: report("fonts", done, total, None))
        report("fonts", len(bank.fonts), len(bank.fonts), None)
        return bank

    def digits(self) -> GlyphBank:
        """Return the ten digits, of however few fonts."""
        return load_glyphs(self.fonts, class_set("chars:0123456789"), 1, self.most)


def pretrain(
    source: GlyphSource,
    out: Path,
    settings: DistilSettings | SmallSettings,
    *,
    foundation_steps: int = 3000,
    overwrite: bool = False,
    report: Report = print,
) -> dict[str, Any]:
    """Train a glyph generator and its foundation classifier and write the folder ``out``; return the manifest.

    ``settings`` decide the kind: those of distillation make a BigGAN, SmallSettings a VQ-VAE or a few-step flow.

    The folder appears whole or not at all; with ``overwrite`` the files of the generator in it are replaced and all others stay.
    UserError for an unknown class set, too few fonts, or a folder that exists (that is no generator's, with ``overwrite``).
    Ctrl-C while G trains keeps what it has learned so far; at any other moment nothing is written.
    """
    class_set(source.classes)
    refuse_occupied(out, overwrite)
    if settings.iterations < 1:
        raise UserError(f"--iterations is {settings.iterations}; it must be 1 or more.")
    bank = source.glyphs(report)
    model: nn.Module
    if isinstance(settings, SmallSettings):
        model, record = train_small(bank, settings, lambda done, total, loss: report(settings.kind, done, total, loss))
        how = f"--kind {settings.kind}"
    else:
        model, record = distil(bank, settings, lambda done, total, loss: report("distil", done, total, loss))
        how = f"--channel-width {settings.channel_width}"
    likeness = {name: [like, round(score, 2)] for name, (like, score) in look_alike(bank, source.digits()).items()}
    manifest = {
        "class_set": source.classes,
        "settings": asdict(settings),
        "training": record,
        "nearest_digit": likeness,
        "made_by": f"mpssl-fed pretrain-generator --classes {source.classes} --iterations {settings.iterations} "
        f"--seed {settings.seed} {how}",
    }
    report("foundation classifier", 0, 1, None)
    foundation = train_glyph_classifier(bank, foundation_steps, settings.seed)
    written = write_folder(bank, model, foundation, settings, manifest, out)
    report("foundation classifier", 1, 1, None)
    return written


def refuse_occupied(out: Path, overwrite: bool) -> None:
    """Raise UserError unless ``out`` is free or, with ``overwrite``, empty or a generator's folder."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UserError(f"--out {out} exists; choose another folder or add --overwrite.")
    if not out.is_dir():
        raise UserError(f"--out {out} is no folder; choose another.")
    if any(out.iterdir()):
        try:
            known = "state_hash" in read_json(out / MANIFEST)
        except UserError:
            known = False
        if not known or not (out / WEIGHTS).is_file():
            raise UserError(f"--out {out} exists and is no generator's folder, so nothing here overwrites it; choose another.")


def write_folder(
    bank: GlyphBank,
    model: nn.Module,
    foundation: tuple[GlyphClassifier, dict[str, Any]],
    settings: DistilSettings | SmallSettings,
    manifest: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Measure, and put every file of ``out`` in place at once; return the manifest. foundation: its classifier, and its record.

    UserError where the weights take more than MAX_BYTES, or ``out`` has meanwhile become what is no generator's folder.
    """
    classifier, record = foundation
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        work = Path(scratch) / "new"
        work.mkdir()
        save_glyph_classifier(classifier, record, work)
        write_json(work / CONFIG, settings.config(len(bank.classes)))
        write_json(work / CLASSES, list(bank.classes))
        blob = BytesIO()
        torch.save({key: value.half().contiguous() for key, value in model.state_dict().items()}, blob)
        write_atomic(work / WEIGHTS, blob.getvalue())
        if len(blob.getvalue()) > MAX_BYTES:
            raise UserError(
                f"the weights take {len(blob.getvalue())} bytes, over {MAX_BYTES}; lower --channel-width, or take fewer classes."
            )
        generator = load_any_folder(work, out.name)
        manifest = {
            "name": out.name,
            "public": True,
            "training_data": "glyphs rendered from the fonts below; no other images",
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **manifest,
            "quality": quality(generator, classifier, bank, settings.seed),
            "foundation_classifier": record,
            "state_hash": generator.state_hash(),
            "parameters": sum(p.numel() for p in generator.parameters()),
            "sha256": {file: sha256(work / file) for file in (WEIGHTS, CONFIG, CLASSES, FILE)},
            "versions": {name: version(name) for name in ("torch", "pytorch-pretrained-biggan", "pillow")},
            "fonts": [asdict(font) for font in bank.fonts],
        }
        write_atomic(work / MANIFEST, _a_font_a_line(manifest))
        refuse_occupied(out, overwrite=True)
        if out.exists():  # file by file, the manifest last: what others put there stays where it is
            for name in (CONFIG, CLASSES, FILE, CARD, WEIGHTS, MANIFEST):
                (work / name).replace(out / name)
            (out / SUMS).unlink(missing_ok=True)
        else:
            work.rename(out)
    return manifest


def _a_font_a_line(manifest: dict[str, Any]) -> str:
    lists = [key for key in ("fonts", "classifier_fonts") if manifest.get(key)]
    text = json.dumps({**manifest, **{key: [] for key in lists}}, indent=2, ensure_ascii=False)
    for key in lists:
        lines = ",\n".join("    " + json.dumps(font, ensure_ascii=False) for font in manifest[key])
        text = text.replace(f'  "{key}": []', f'  "{key}": [\n{lines}\n  ]')
    return text + "\n"


@torch.no_grad()
def quality(generator: Generator, classifier: nn.Module, bank: GlyphBank, seed: int, per_class: int = 40) -> dict[str, Any]:
    """Measure samples against renders: accuracy of the classifier on each, and how varied the samples are.

    ``spread`` is the standard deviation over a class' samples, averaged over pixels and classes, divided by the same of
    renders: 1 means as varied as the renders, 0 that each class is one image.
    """
    count = len(generator.classes)
    rng = torch_rng(seed, "pretrain", "quality")
    samples, y = _samples(generator, rng, per_class)
    by_class = _right(classifier, samples, y).view(per_class, count).mean(0)
    renders, truth, _, _ = RenderStream(bank, rng).draw(len(y))
    rendered = _right(classifier, renders, truth)
    return {
        "sample_accuracy": round(by_class.mean().item(), 4),
        "render_accuracy": round(rendered.mean().item(), 4),
        "worst_class": [generator.classes[int(by_class.argmin())], round(by_class.min().item(), 4)],
        "spread": round(_spread(samples, y, count) / _spread(renders, truth, count), 4),
    }


@torch.no_grad()
def read_rates(generator: Generator, classifier: nn.Module, rng: torch.Generator, per_class: int) -> Tensor:
    """Return for each class the share of ``per_class`` samples that the classifier names rightly, [K]."""
    samples, y = _samples(generator, rng, per_class)
    return _right(classifier, samples, y).view(per_class, -1).mean(0)


def _samples(generator: Generator, rng: torch.Generator, per_class: int) -> tuple[Tensor, Tensor]:
    """Return grey images [per_class K, 1, size, size] and labels: 0 .. K - 1, and again."""
    count = len(generator.classes)
    y = torch.arange(count).repeat(per_class)
    z = generator.sample_z(len(y), rng)
    parts = zip(torch.split(z, 256), torch.split(y, 256), strict=True)
    drawn = [generator(a, F.one_hot(b, count).float()).mean(1, keepdim=True) for a, b in parts]
    return torch.cat(drawn), y


def _right(classifier: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    return (torch.cat([classifier(part) for part in torch.split(images, 256)]).argmax(1) == y).float()


def _spread(images: Tensor, y: Tensor, count: int) -> float:
    return torch.stack([images[y == c].std(0).mean() for c in range(count)]).mean().item()
