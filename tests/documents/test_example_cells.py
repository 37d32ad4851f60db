"""docs/example-cells.md in small: the page's own commands on cells that are drawn here, from the folder to the dossier."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from mpssl_fed.runs.reader import RunReader
from tests.documents.known import in_its_place
from tests.documents.reading import steps
from tests.documents.test_documents import furnish

PAGE = "docs/example-cells.md"
IN_SMALL = {
    "runs/open": ["federation.rounds=1", "federation.local_steps=15", "warm_start.steps=2"],
    "runs/private": ["federation.rounds=1"],
    "runs/same": ["federation.rounds=1"],
    "audit": ["--what", "mechanism,inversion", "--trials", "20000", "--iterations", "20"],
}
FLOORS = {"runs/open": 0.7, "runs/private": 0.7, "runs/same": 0.9}
"""Run -> least balanced accuracy of three classes, chance 1/3; measured .86, .99 and .98."""


def test_the_page_from_folder_to_dossier(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(furnish(PAGE, tmp_path))
    said: dict[str, str] = {}
    for step in steps(PAGE):
        words = shlex.split(in_its_place(step.text)) if step.kind == "command" else []
        if words:
            status, said[words[1]], error = cli(*words[1:], *IN_SMALL.get(words[-1] if words[1] == "simulate" else words[1], []))
            assert status == 0, f"{step.where}: {step.text}\n{error}"
    assert "290 subjects have these images: 96 to 97 per site; 40 others to test on" in said["data"]
    assert "per subject, of 2 asked; covers every read of private data" in said["privacy"]
    for name, floor in FLOORS.items():
        balanced = RunReader(Path(name)).rounds[-1].balanced
        assert balanced is not None
        assert balanced >= floor, name
    assert "120 images, 40 subjects" in said["evaluate"]
    status, ledgers, _ = cli("ledger", "show", "runs/private", "--json")
    assert status == 0
    dossier = Path("runs/private/dossier.md").read_text()
    spent = [site["data_sets"][0]["runs"][0]["epsilon_spent"] for site in json.loads(ledgers)["sites"].values()]
    assert len(spent) == 3
    for number, epsilon in enumerate(spent):
        assert 1.9 < epsilon <= 2
        row = next(line for line in dossier.splitlines() if line.startswith(f"| site {number},") and "epsilon spent, per" in line)
        assert 0 <= float(row.split("|")[2]) - epsilon < 0.001
        assert f"sites/{number}/ledger.sqlite" in row
    assert "| site 0, inversion, gradient inversion, private" in dossier
    assert "generator.name" not in dossier
    assert "<code>end-to-end</code></th>" in Path("runs/private/dossier.html").read_text()
