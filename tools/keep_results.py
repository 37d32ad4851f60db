"""Copy what a finished study leaves to benchmarks/results: table, the study as it was, summary, plots and a cell's manifest.

Usage: python tools/keep_results.py STUDY RUN, where STUDY is a shipped study's name and RUN the folder that it wrote.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from mpssl_fed.config import read_mapping, to_yaml
from mpssl_fed.files import write_atomic

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
FRONTS = ("pareto", "labels-per-class", "comparison")
"""The plots by which a study is known, the most telling first."""


def keep(study: str, run: Path) -> list[Path]:
    """Write RESULTS/STUDY.csv, .yaml, .md, .png, .svg and .manifest.json; return them. FileNotFoundError if RUN holds no table.

    A table is read by the settings of its own rows, so the study that wrote it stands beside it: the shipped one may change.
    """
    table = run / "results.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist: {run} is no finished study")
    front = next(name for name in FRONTS if (run / "plots" / f"{name}.svg").exists())
    sources = {"csv": table, "manifest.json": next(run.glob("cells/*/manifest.json"))}
    sources |= {ending: run / "plots" / f"{front}.{ending}" for ending in ("png", "svg")}
    written = [write_atomic(RESULTS / f"{study}.{ending}", source.read_bytes()) for ending, source in sources.items()]
    version, as_it_was = _as_it_was(table, run / "study.yaml")
    written.append(write_atomic(RESULTS / f"{study}.yaml", as_it_was))
    how = (
        f"Results of method version {version}. "
        f"Command: `mpssl-fed study benchmarks/results/{study}.yaml --from benchmarks/results/{study}.csv`. "
        f"Versions and hardware of a cell: `{study}.manifest.json`. Plot: `{study}.png`."
    )
    summary = (run / "results.md").read_text(encoding="utf-8").rstrip() + f"\n\n{how}\n"
    return [*written, write_atomic(RESULTS / f"{study}.md", summary)]


def _as_it_was(table: Path, study: Path) -> tuple[int, str]:
    """Return the version of the method that a table's rows are of, and the study that wrote it with this version in it, so that it
    is never run by another; ValueError where rows are of several."""
    with open(table, newline="", encoding="utf-8") as file:
        (version,) = {int(line["method_version"]) for line in csv.DictReader(file)}
    return version, to_yaml(read_mapping(study) | {"method_version": version})


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
