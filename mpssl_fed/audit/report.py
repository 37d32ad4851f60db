"""``audit.json`` and ``audit.html``: what is claimed, what was proved against it and how far attacks came, side by side."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mpssl_fed import page
from mpssl_fed.audit.words import TERMS, TITLES, Verdict, of_claims, of_tests
from mpssl_fed.files import write_atomic, write_json
from mpssl_fed.report.table import NOTHING, Table, TableCell, make_table

SEEN, LEAST = 128, 4
"""Pixels that an image is enlarged to about, and the least factor."""


@dataclass(frozen=True)
class Line:
    """One row: what was tried, the epsilon claimed and the one proved from below (None where it is no question of epsilon),
    how far the attack came in words, and whether it contradicts the claim."""

    audit: str
    claimed: float | None
    lower_bound: float | None
    success: str
    contradicts: bool | None = None


@dataclass(frozen=True)
class Section:
    """The lines of one audit, a note that says how it was made, all its numbers for the JSON, and pictures with captions.

    verdict and table: what it found, in words and as the page shows it; by default those of its lines' claims.
    """

    name: str
    lines: Sequence[Line]
    note: str
    numbers: Any
    pictures: dict[str, bytes] = field(default_factory=dict)
    verdict: Verdict | None = None
    table: Table | None = None

    @property
    def tests(self) -> list[tuple[str, bool]]:
        """(name, contradicts) of each line that puts a claim to the test."""
        return [(line.audit, line.contradicts) for line in self.lines if line.contradicts is not None]


def write_audit(folder: Path, facts: dict[str, Any], sections: Sequence[Section]) -> Path:
    """Write audit.json, audit.html and the pictures, all 0600, into ``folder`` (made 0700) and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    found = {section.name: {"lines": [asdict(line) for line in section.lines], "numbers": section.numbers} for section in sections}
    write_json(folder / "audit.json", {"facts": facts, "audits": found}, mode=0o600)
    for section in sections:
        for number, png in enumerate(section.pictures.values()):
            write_atomic(folder / f"{section.name}-{number}.png", png, mode=0o600)
    return page.write_page(
        folder / "audit.html",
        "audit.html",
        mode=0o600,
        title=f"Audit of site {facts['site']} on {facts['data']}",
        subtitle="What an attacker could learn of this site's images, measured beside what the run claims.",
        verdicts=verdicts(facts, sections),
        facts=[(name, str(value)) for name, value in facts.items()],
        sections=[_shown(section) for section in sections],
        numbers=json.dumps({section.name: section.numbers for section in sections}, indent=1),
    )


def contradictions(sections: Sequence[Section]) -> list[Line]:
    """Return the lines that contradict what is claimed."""
    return [line for section in sections for line in section.lines if line.contradicts]


def picture(images: Sequence[Tensor]) -> bytes:
    """Return images [C, S, S] in [-1, 1] side by side as a PNG, enlarged."""
    rows = torch.cat([torch.nn.functional.pad(x.detach().float().cpu(), (1, 1, 1, 1), value=1.0) for x in images], dim=2)
    pixels = ((rows.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    image, zoom = Image.fromarray(array), max(LEAST, SEEN // images[0].shape[-1])
    file = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(file, format="PNG")
    return file.getvalue()


def verdicts(facts: dict[str, Any], sections: Sequence[Section]) -> list[Verdict]:
    """Return what was found, in plain words: first what an attacker of this run could do, then the rest."""
    tests = [test for section in sections for test in section.tests]
    found = [of_claims(str(facts["scope"]), tests), *(section.verdict for section in sections if section.verdict is not None)]
    return sorted(found, key=lambda verdict: not verdict.alarming)


def _shown(section: Section) -> dict[str, Any]:
    """Return a section as the page's template wants it."""
    table = section.table or (_claims_table(section.lines) if section.tests else None)
    return {
        "title": TITLES[section.name],
        "verdict": section.verdict.words if section.verdict is not None else of_tests(section.tests),
        "note": section.note,
        "table": table,
        "pictures": [page.picture(png, words) for words, png in section.pictures.items()],
        "terms": TERMS[section.name].items() if table else (),
    }


def _claims_table(lines: Sequence[Line]) -> Table:
    measured = any(line.success for line in lines)
    rows: list[list[str | TableCell]] = []
    for line in lines:
        wrong = TableCell("yes", "worse") if line.contradicts else TableCell("no")
        claims = [NOTHING if value is None else f"{value:.3f}" for value in (line.claimed, line.lower_bound)]
        rows.append([line.audit.strip(), *claims, *([line.success or NOTHING] if measured else []), wrong])
    columns = ["test", "epsilon claimed", "proved from below", *(["measured"] if measured else []), "contradicts"]
    return make_table(columns, rows, ["test", "measured", "contradicts"])
