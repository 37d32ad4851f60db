"""Draw README's evidence from benchmarks/results: one table between its marks, and the same gains as docs/evidence.svg.

Usage: python tools/evidence.py. A test runs it and finds nothing to change. Each row is a paired comparison over the seeds that
both arms have; the interval is the 95 % t-interval of that comparison alone, not corrected for the others. Where a study added
seeds for the width of an interval, those count for the mean alone (Stein 1945), as on its own page.
"""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.config import read_mapping
from mpssl_fed.files import write_atomic
from mpssl_fed.study.statistics import Estimate, estimate

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- evidence: tools/evidence.py writes this -->", "<!-- end of evidence -->"
Settings = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One comparison: what is common to both arms of a study, what each adds, and how a user sets the second."""

    setting: str
    short: str
    study: str
    common: Settings
    base: Settings
    arm: Settings
    names: tuple[str, str]
    how: str


ONE: Settings = {"data.labels_per_class": "1"}
STRONG: Settings = {"method.augment": "half-strong"}
WARM: Settings = ONE | STRONG | {"warm_start.part": "body"}
TWO: Settings = {"data.partition": "pathological classes_per_site=2"}
DIRICHLET: Settings = {"data.partition": "dirichlet alpha=0.3 min_per_site=1"}
IID: Settings = {"data.partition": "iid"}
RECIPE: tuple[Settings, Settings] = {"variant": "base"}, {"variant": "federated-gssl"}
NAMES, HOW = ("`base`", "`federated-gssl`"), "`method.name=federated-gssl`"
SITES = "recipe"
DIGITS: Settings = {"generator.name": "glyphs-digits"}
LETTERS: Settings = {"generator.name": "glyphs-letters"} | TWO
EPSILON_1 = {"privacy.epsilon": "1", "method.name": "base"}

ROWS = (
    Row("digits, five sites of two classes each", "two classes per site", SITES, DIGITS | TWO, *RECIPE, NAMES, HOW),
    Row("the same, and the generator draws letters", "… letters alone", SITES, LETTERS, *RECIPE, NAMES, HOW),
    Row(
        "the same, and the paper's method", "… the paper's mp-ssl", SITES, DIGITS | TWO,
        {"variant": "base"}, {"variant": "mp-ssl"}, ("`base`", "`mp-ssl`"), "nothing: it did not pay",
    ),
    Row("digits, five sites, Dirichlet 0.3", "Dirichlet 0.3", SITES, DIGITS | DIRICHLET, *RECIPE, NAMES, HOW),
    Row("digits, five sites alike (iid)", "sites alike", SITES, DIGITS | IID, *RECIPE, NAMES, HOW),
    Row(
        "digits, one site, one label per class", "one label: augment", "methods-one-site", ONE | {"variant": "base"},
        {"method.augment": "weak", "warm_start.part": "none"}, {"method.augment": "half-strong", "warm_start.part": "none"},
        ("`base`, weak", "`base`, half-strong"), "`method.augment=half-strong`",
    ),
    Row(
        "the same, and the body warm from the generator", "… warm body and mp-ssl", "methods-one-site", ONE | STRONG,
        {"variant": "base", "warm_start.part": "none"}, {"variant": "mp-ssl", "warm_start.part": "body"},
        ("`base`, half-strong", "`mp-ssl`, warm body"), "`warm_start.part=body`",
    ),
    Row(
        "the same, what a loss adds to it", "… vic-gssl on a warm body", "methods-one-site", WARM,
        {"variant": "base"}, {"variant": "vic-gssl"}, ("`base`, warm body", "`vic-gssl`, warm body"),
        "`method.name=vic-gssl`",
    ),
    Row(
        "the same, what LMO adds to it", "… and LMO", "methods-one-site", WARM,
        {"variant": "mp-ssl-wo-lmo"}, {"variant": "mp-ssl"}, ("`mp-ssl-wo-lmo`", "`mp-ssl`"), "nothing: random latents are better",
    ),
    Row(
        "digits, five sites, epsilon 1 end to end", "epsilon 1, digits", "privacy-utility-mnist", EPSILON_1,
        {"variant": "hog head", "warm_start.part": "none"}, {"variant": "head", "warm_start.part": "both"},
        ("head on HOG", "warm head"), "config `privacy/end-to-end`",
    ),
    Row(
        "clothes, five sites, epsilon 1 end to end", "epsilon 1, clothes", "privacy-utility-fashion", EPSILON_1,
        {"variant": "pixel head", "warm_start.part": "none"}, {"variant": "head", "warm_start.part": "body"},
        ("linear on pixels", "warm head"), "nothing: pixels are better",
    ),
)  # fmt: skip


def accuracies(study: str, settings: Settings) -> dict[str, float]:
    """Return test accuracy by seed of one arm; ValueError where the settings do not name exactly one."""
    found: dict[str, float] = {}
    with open(ROOT / "benchmarks" / "results" / f"{study}.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if all(row[key] == value for key, value in settings.items()):
                if row["seed"] in found:
                    raise ValueError(f"{study}: {settings} names more than one arm")
                found[row["seed"]] = float(row["accuracy"])
    if not found:
        raise ValueError(f"{study}: no row has {settings}")
    return found


def measured(row: Row) -> tuple[Estimate, Estimate, Estimate]:
    """Return base, arm and paired gain of a row, in points of accuracy."""
    base, arm = (accuracies(row.study, row.common | settings) for settings in (row.base, row.arm))
    seeds, first = sorted(base.keys() & arm.keys(), key=int), first_seeds(row.study)
    one, other = [base[seed] for seed in seeds], [arm[seed] for seed in seeds]
    gains = [b - a for a, b in zip(one, other, strict=True)]
    return _points(estimate(one)), _points(estimate(other)), _points(estimate(gains[:first], gains[first:]))


def _points(found: Estimate) -> Estimate:
    return Estimate(100 * found.mean, None if found.half is None else 100 * found.half, found.n)


def first_seeds(study: str) -> int:
    """Return how many seeds a study ran before it looked at any interval: all, unless it adds some."""
    seeds = read_mapping(ROOT / "benchmarks" / "results" / f"{study}.yaml").get("seeds")
    return int(seeds["least"]) if isinstance(seeds, dict) else sys.maxsize


def table() -> str:
    """Return the rows as Markdown."""
    lines = ["| setting | without | with | gain, points | what to set |", "|---|---:|---:|---:|---|"]
    for row in ROWS:
        base, arm, gain = measured(row)
        cells = (
            f"{row.names[0]} {base.mean:.1f} %",
            f"{row.names[1]} {arm.mean:.1f} %",
            f"{gain.mean:+.1f} ± {gain.half or 0:.1f}",
        )
        lines.append(f"| {row.setting} | {' | '.join(cells)} | {row.how} |")
    return "\n".join(lines)


WIDTH, LABELS, TOP, LINE = 480, 176, 58, 30
LEAST, MOST = -8.0, 16.0
STYLE = (
    ".paper { fill: #fff } text { fill: #16181d } .axis { stroke: #999 } .zero { stroke: #333; stroke-width: 1.5 } "
    ".bar { stroke: #41598f; stroke-width: 3 } .dot { fill: #41598f } .muted { fill: #5a5f6a; font-size: 13px } "
    "@media (prefers-color-scheme: dark) { .paper { fill: #16171a } text { fill: #e8e8ea } .axis { stroke: #666 } "
    ".zero { stroke: #c4c4cc } .bar { stroke: #8aa4e0 } .dot { fill: #8aa4e0 } .muted { fill: #a6abb6 } }"
)


def _x(points: float) -> float:
    return LABELS + (points - LEAST) / (MOST - LEAST) * (WIDTH - LABELS - 16)


def plot() -> str:
    """Return the gains with their intervals as SVG."""
    height = TOP + LINE * len(ROWS) + 34
    bottom = height - 30
    title = "Gain in accuracy, points, with its 95 % interval"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'font-family="system-ui, sans-serif" font-size="15" role="img" style="max-width:100%;height:auto">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        f'<text x="12" y="24" font-weight="700">{title}</text>',
    ]
    for tick in range(int(LEAST), int(MOST) + 1, 4):
        name = "zero" if tick == 0 else "axis"
        parts.append(f'<line class="{name}" x1="{_x(tick):.1f}" x2="{_x(tick):.1f}" y1="{TOP - 12}" y2="{bottom}"/>')
        parts.append(
            f'<text class="muted" text-anchor="middle" x="{_x(tick):.1f}" y="{height - 10}">{f"{tick:+d}" if tick else 0}</text>'
        )
    for number, row in enumerate(ROWS):
        gain, y = measured(row)[2], TOP + LINE * number + 8
        half = gain.half or 0.0
        parts.append(f'<text x="12" y="{y + 5}">{row.short}</text>')
        parts.append(f'<line class="bar" x1="{_x(gain.mean - half):.1f}" x2="{_x(gain.mean + half):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot" cx="{_x(gain.mean):.1f}" cy="{y}" r="5"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def written() -> dict[Path, str]:
    """Return what README and plot are to be."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return {
        ROOT / "README.md": between.sub(lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", readme),
        ROOT / "docs" / "evidence.svg": plot(),
    }


if __name__ == "__main__":
    for path, text in written().items():
        write_atomic(path, text)
