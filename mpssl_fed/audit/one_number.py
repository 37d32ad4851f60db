"""How far the published classifier of a finished run gives its training images away: one number a cell, in seconds."""

from __future__ import annotations

from pathlib import Path

from mpssl_fed.audit.audited import Audited
from mpssl_fed.audit.model_sections import membership
from mpssl_fed.runs.reader import read_config
from mpssl_fed.trained.load import load_trained


def membership_auroc(folder: Path) -> float:
    """Return the area under the curve of the loss-threshold attack on a run directory's model; 0.5 is a coin.

    Up to 1,000 training images of all sites against as many that no site had; no shadow models, which ``mpssl-fed audit``
    trains (docs/privacy.md: an attack from below never proves an epsilon). Raises UserError where the run has no model.
    """
    config = read_config(folder)
    audited = Audited(config, 0, config.seed, trained=load_trained(folder, "cpu").classifier, shadows=0)
    return round(float(membership(audited).numbers[0]["auroc"]["value"]), 4)
