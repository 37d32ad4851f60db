"""Run directories and studies for tests: files written in the formats of a run, and the smallest study that really trains."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mpssl_fed.config import from_mapping
from mpssl_fed.study.grid import Plan, load_study

TINY = {
    "data": {"labels_per_class": 1, "test_limit": 50},
    "model": {"name": "pixels"},
    "federation": {"sites": 2, "rounds": 2, "local_steps": 2},
}
"""A base config that trains in a fraction of a second: a linear head on the pixels of real digits, two sites, two rounds."""


def plan_of(folder: Path, **fields: Any) -> Plan:
    """Write a study file and return its plan."""
    return load_study(write_study(folder, **fields))


def write_study(folder: Path, **fields: Any) -> Path:
    """Write a study file named study-file.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study-file.yaml"
    file.write_text(yaml.safe_dump({"base": TINY} | fields, sort_keys=False))
    return file


def write_run(folder: Path, accuracies: list[float], config: dict[str, Any] | None = None, sites: int = 3) -> Path:
    """Write the files of a finished run whose test accuracy went as given, by round from 0."""
    resolved = from_mapping({"federation": {"sites": sites, "rounds": len(accuracies) - 1}} | (config or {}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(resolved.to_yaml())
    lines = []
    for number, accuracy in enumerate(accuracies):
        late, train_loss = int(number == 2), 2.0 / (number + 1) if number else None
        lines.append({
            "round": number, "test_accuracy": accuracy, "test_loss": 2.4 - 2 * accuracy, "train_loss": train_loss,
            "seconds": 1.5, "sites_asked": sites if number else 0, "sites_answered": sites - late if number else 0, "missing": 0,
            "rejected": {"non-finite": 1} if late else {}, "generated": 96 if number else None,
            "timings": {"train": 1.0, "generate": 0.25, "serialise": 0.05, "aggregate": 0.02, "evaluate": 0.1},
        })  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "manifest.json").write_text(json.dumps({"run_id": "0123", "status": "finished", "versions": {"torch": "2"}}))
    counts = {str(site): [(3 * site + c) % 5 for c in range(10)] for site in range(sites)}
    (folder / "labels.json").write_text(json.dumps({"classes": [str(c) for c in range(10)], "sites": counts}))
    (folder / "generator.png").write_bytes(png(0))
    for site in range(sites):
        (folder / "sites" / str(site)).mkdir(parents=True, exist_ok=True)
        (folder / "sites" / str(site) / "samples.png").write_bytes(png(site + 1))
    return folder


def png(seed: int) -> bytes:
    """Return a small PNG."""
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
