"""Seconds that federation costs per site and round beyond pure training, in-process and on Ray, for 4 to 256 sites.

    python -m benchmarks.federation [--sites 4 16 64 256] [--engines inprocess ray] [--rounds 3] [--output FILE]

Writes a table with versions to benchmarks/results/federation-DATE.md. "Beyond training" is wall time of a round, times the
workers that shared it, less the server's evaluation and less what the sites spent in training and in the generator.
"""

from __future__ import annotations

import argparse
import datetime
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import mpssl_fed
from mpssl_fed.files import write_atomic
from mpssl_fed.runs.manifest import versions

SMALL: dict[str, Any] = {
    "data": {"labels_per_class": 1, "test_limit": 100},
    "method": {"name": "base"},
    "federation": {"local_steps": 1},
}
"""The cheapest training there is: what is left is federation."""


def measure(config: Any, *overrides: str, workers: int) -> dict[str, float]:
    """Return medians over rounds: seconds per site and round beyond training, of training, and what start-up took."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = mpssl_fed.simulate(config, *overrides, f"output.dir={folder}/run")
        total = time.perf_counter() - start
    rounds = [record for record in run.history if record.number > 0]
    later = rounds[1:] or rounds
    training = [record.timings["train"] + record.timings["generate"] for record in later]
    walls = [record.seconds - record.timings["evaluate"] for record in later]
    sites = run.config.federation.sites
    return {
        "beyond": median((workers * wall - trained) / sites for wall, trained in zip(walls, training, strict=True)),
        "training": median(trained / sites for trained in training),
        "share": median((workers * wall - trained) / trained for wall, trained in zip(walls, training, strict=True)),
        "start": total - sum(record.seconds for record in later),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--engines", nargs="+", default=["inprocess", "ray"], choices=["inprocess", "ray"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    load = os.getloadavg()[0]
    lines = [
        f"# Federation overhead, {today}",
        "",
        f"{os.cpu_count()} cores, load {load:.1f} at the start; " + ", ".join(f"{k} {v}" for k, v in versions().items()) + ".",
        "small-cnn (90 k parameters), one local step of `base`; seconds per site and round, median of all rounds but the first.",
        "",
        "| engine | sites | beyond training, s | training, s | start-up and first round, s |",
        "|---|---|---|---|---|",
    ]
    for engine in options.engines:
        for sites in options.sites:
            workers = min(os.cpu_count() or 1, sites) if engine == "ray" else 1
            words = (f"federation.sites={sites}", f"federation.rounds={options.rounds}", f"federation.backend={engine}")
            found = measure(SMALL, *words, workers=workers)
            row = f"| {engine} | {sites} | {found['beyond']:.4f} | {found['training']:.4f} | {found['start']:.1f} |"
            print(row, flush=True)
            lines.append(row)
    demo = measure("demo", "federation.rounds=3", workers=1)
    lines += [
        "",
        f"The demo (4 sites, mp-ssl), in-process: {demo['beyond']:.4f} s beyond {demo['training']:.3f} s of training per site "
        f"and round, {100 * demo['share']:.2f} % (target: under 5 %).",
    ]
    print(lines[-1])
    path = options.output or Path(__file__).parent / "results" / f"federation-{today}.md"
    write_atomic(path, "\n".join(lines) + "\n")
    print(path)


if __name__ == "__main__":
    main()
