"""Copy what a finished study leaves to benchmarks/results: table, summary, plots and the manifest of one of its cells.

Usage: python tools/keep_results.py STUDY RUN, where STUDY is a shipped study's name and RUN the folder that it wrote.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from mpssl_fed.files import write_atomic

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
FRONTS = ("pareto", "labels", "comparison")
"""The plots by which a study is known, the most telling first."""


def keep(study: str, run: Path) -> list[Path]:
    """Write RESULTS/STUDY.csv, .md, .png, .svg and .manifest.json; return them. FileNotFoundError if RUN holds no table."""
    written = []
    for source, ending in ((run / "results.csv", "csv"), (next(run.glob("cells/*/manifest.json")), "manifest.json")):
        written.append(RESULTS / f"{study}.{ending}")
        shutil.copyfile(source, written[-1])
    front = next(name for name in FRONTS if (run / "plots" / f"{name}.svg").exists())
    for ending in ("png", "svg"):
        written.append(RESULTS / f"{study}.{ending}")
        shutil.copyfile(run / "plots" / f"{front}.{ending}", written[-1])
    how = (
        f"Command: `mpssl-fed study {study} --from benchmarks/results/{study}.csv`. "
        f"Versions and hardware of a cell: `{study}.manifest.json`. Plot: `{study}.png`."
    )
    written.append(RESULTS / f"{study}.md")
    write_atomic(written[-1], (run / "results.md").read_text(encoding="utf-8").rstrip() + f"\n\n{how}\n")
    return written


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
