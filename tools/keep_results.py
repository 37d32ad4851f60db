"""Copy what a finished study leaves to benchmarks/results: table, summary, plots and the manifest of one of its cells.

Usage: python tools/keep_results.py STUDY RUN, where STUDY is a shipped study's name and RUN the folder that it wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mpssl_fed.files import write_atomic

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
FRONTS = ("pareto", "labels-per-class", "comparison")
"""The plots by which a study is known, the most telling first."""


def keep(study: str, run: Path) -> list[Path]:
    """Write RESULTS/STUDY.csv, .md, .png, .svg and .manifest.json; return them. FileNotFoundError if RUN holds no table."""
    table = run / "results.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist: {run} is no finished study")
    front = next(name for name in FRONTS if (run / "plots" / f"{name}.svg").exists())
    sources = {"csv": table, "manifest.json": next(run.glob("cells/*/manifest.json"))}
    sources |= {ending: run / "plots" / f"{front}.{ending}" for ending in ("png", "svg")}
    written = [write_atomic(RESULTS / f"{study}.{ending}", source.read_bytes()) for ending, source in sources.items()]
    how = (
        f"Command: `mpssl-fed study {study} --from benchmarks/results/{study}.csv`. "
        f"Versions and hardware of a cell: `{study}.manifest.json`. Plot: `{study}.png`."
    )
    summary = (run / "results.md").read_text(encoding="utf-8").rstrip() + f"\n\n{how}\n"
    return [*written, write_atomic(RESULTS / f"{study}.md", summary)]


def main() -> None:
    """Keep one study."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("study")
    options.add_argument("run", type=Path)
    given = options.parse_args()
    for path in keep(given.study, given.run):
        print(path.relative_to(RESULTS.parents[1]))


if __name__ == "__main__":
    main()
