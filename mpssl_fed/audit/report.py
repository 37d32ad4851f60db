"""``audit.json`` and ``audit.html``: what is claimed, what was proved against it and how far attacks came, side by side."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mpssl_fed.files import write_atomic, write_json

ZOOM = 4
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --page: #fdfdfc; --muted: #62626d; --rule: #d9d9de; --bad: #a84300; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --page: #16171a; --muted: #a3a3ad; --rule: #3a3b41; --bad: #ff9d66; }
}
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 0 auto; padding: 2rem 1.2rem; color: var(--ink);
  background: var(--page); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: baseline; }
.wide { overflow-x: auto; }
.note { color: var(--muted); max-width: 46rem; }
.bad { color: var(--bad); font-weight: 600; }
img { image-rendering: pixelated; border: 1px solid var(--rule); max-width: 100%; }
"""


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
    """The lines of one audit, a note that says how to read them, all its numbers for the JSON, and pictures with captions."""

    name: str
    lines: Sequence[Line]
    note: str
    numbers: Any
    pictures: dict[str, bytes] = field(default_factory=dict)


def write_audit(folder: Path, facts: dict[str, Any], sections: Sequence[Section]) -> Path:
    """Write audit.json, audit.html and the pictures into ``folder`` (made 0700) and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    found = {section.name: {"lines": [asdict(line) for line in section.lines], "numbers": section.numbers} for section in sections}
    write_json(folder / "audit.json", {"facts": facts, "audits": found})
    for section in sections:
        for number, png in enumerate(section.pictures.values()):
            write_atomic(folder / f"{section.name}-{number}.png", png, mode=0o600)
    page = folder / "audit.html"
    write_atomic(page, _page(facts, sections), mode=0o600)
    return page


def contradictions(sections: Sequence[Section]) -> list[Line]:
    """Return the lines that contradict what is claimed."""
    return [line for section in sections for line in section.lines if line.contradicts]


def picture(images: Sequence[Tensor]) -> bytes:
    """Return images [C, S, S] in [-1, 1] side by side as a PNG, enlarged."""
    rows = torch.cat([torch.nn.functional.pad(x.detach().float().cpu(), (1, 1, 1, 1), value=1.0) for x in images], dim=2)
    pixels = ((rows.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array)
    file = io.BytesIO()
    image.resize((image.width * ZOOM, image.height * ZOOM), Image.Resampling.NEAREST).save(file, format="PNG")
    return file.getvalue()


def _page(facts: dict[str, Any], sections: Sequence[Section]) -> str:
    wrong = contradictions(sections)
    verdict = (
        f'<p class="bad">{len(wrong)} line(s) contradict the claim: {escape(", ".join(line.audit for line in wrong))}.</p>'
        if wrong
        else "<p>Nothing here contradicts the claims. An audit can refute an epsilon, never prove one.</p>"
    )
    table = "".join(_row(line) for section in sections for line in section.lines)
    notes = "".join(
        f"<h2>{escape(section.name)}</h2><p class='note'>{escape(section.note)}</p>"
        + "".join(
            f'<figure><img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            f"<figcaption class='note'>{escape(words)}</figcaption></figure>"
            for words, png in section.pictures.items()
        )
        for section in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>Audit</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body><main><h1>Audit</h1>'
        f"<p class='note'>{escape('; '.join(f'{key}: {value}' for key, value in facts.items()))}</p>{verdict}"
        "<div class='wide'><table><thead><tr><th>audit</th><th>claimed epsilon</th><th>proved from below</th><th>attack</th></tr>"
        f"</thead><tbody>{table}</tbody></table></div>{notes}<h2>All numbers</h2><details><summary>audit.json</summary>"
        f"<pre>{escape(json.dumps({s.name: s.numbers for s in sections}, indent=1))}</pre></details></main></body></html>\n"
    )


def _row(line: Line) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    style = ' class="bad"' if line.contradicts else ""
    return (
        f"<tr><td>{escape(line.audit)}</td><td>{number(line.claimed)}</td><td{style}>{number(line.lower_bound)}</td>"
        f"<td>{escape(line.success)}</td></tr>"
    )
