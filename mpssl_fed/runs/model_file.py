"""The trained classifier as one file that says of itself what it is."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mpssl_fed.errors import UserError
from mpssl_fed.models import Classifier, build_classifier
from mpssl_fed.runs.reader import MODEL


def read_model(path: Path) -> Classifier:
    """Return the classifier in the run directory or file ``path``, in eval mode. UserError when there is none."""
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file. A run has it when its last round is done; --resume finishes an interrupted one")
    try:
        with safe_open(file, framework="pt") as content:
            architecture = json.loads(content.metadata()["architecture"])
            state = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        classifier = build_classifier(**architecture)
        classifier.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{file}: not a model of this toolkit: {error}") from error
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{file}: weights that are not finite in {', '.join(broken[:3])}; training diverged or the file is damaged")
    return classifier.eval()
