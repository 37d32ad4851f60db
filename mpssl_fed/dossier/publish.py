"""A trained model as a folder in the form of the Hugging Face hub: model.safetensors, config.json and the model's card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpssl_fed.dossier.card import card, may_write
from mpssl_fed.dossier.spending import spending
from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.weights import header
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, option
from mpssl_fed.files import plain_file, real, write_atomic
from mpssl_fed.runs.model_file import HUB_CONFIG, HUB_TYPE
from mpssl_fed.runs.reader import MODEL
from mpssl_fed.runs.written import CARD
from mpssl_fed.trained.export import metadata_of
from mpssl_fed.trained.load import Trained, load_trained


@dataclass(frozen=True)
class Published:
    """The folder, and what the user should know."""

    folder: Path
    notes: tuple[str, ...] = ()


def publish(run: str | Path, out: str | Path | None, overwrite: bool = False) -> Published:
    """Write the model of the finished run ``run`` into the folder ``out``, which is then read wherever a run is.

    Nothing of a site is in it but what the card tells: settings, measured accuracy and the privacy that was spent. A README.md of
    the user's own stays. UserError for a run without a model, a folder of the run itself, or one that holds anything else, unless
    ``overwrite`` (then these three files are replaced and all others stay).
    """
    if out is None:
        raise UserError(f"--format hub writes a folder; name it by {option('out', 'DIR')}")
    subject, folder = Subject(expanded(run)), expanded(out)
    if not subject.is_run:
        raise UserError(f"{subject.path}: a site's state folder, which holds no model; name a run directory")
    trained, model = load_trained(subject.path, "cpu"), header(subject.path)
    assert model is not None  # load_trained has read it
    if real(folder) == real(subject.path) or real(folder).is_relative_to(real(subject.path / "sites")):
        raise UserError(f"--out {folder}: is the run's own; choose another folder")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not overwrite)):
        raise UserError(f"--out {folder} exists; choose another folder{' or add --overwrite' if folder.is_dir() else ''}")
    text, mode = card(subject, model, spending(subject)), 0o600 if subject.private else 0o644
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / MODEL, plain_file(trained.file).read_bytes())
        write_atomic(folder / HUB_CONFIG, json.dumps(_config(trained), indent=2, ensure_ascii=False) + "\n")
        if not may_write(folder / CARD):
            return Published(folder, (f"{folder / CARD}: is your own and stays",))
        write_atomic(folder / CARD, text, mode)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror}); choose another folder") from error
    return Published(folder)


def _config(trained: Trained) -> dict[str, Any]:
    """Return config.json with the hub's own names for what has one."""
    classes, said = list(trained.classes), metadata_of(trained)
    return {
        "model_type": HUB_TYPE,
        "library_name": HUB_TYPE,
        "num_labels": len(classes),
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
        "image_size": trained.classifier.size,
        "num_channels": trained.classifier.channels,
        **{key: said[key] for key in ("architecture", "preprocessing", "input", "normalisation", "output")},
    }
