"""The same federated averaging here and in pfl-research, turn about: milliseconds a site and round, and their ratio.

    python benchmarks/peers.py --peers PYTHON [--sites 16 256 1000] [--steps 1 10] [--turns 3] [--output FILE]

PYTHON: the interpreter of an environment that has pfl-research 0.6 and the torch of this one. Equal work: small CNN, ten images a
site in one batch, SGD, no augmentation, one process, one thread. Both go in turn, so that what else a machine does falls on both;
CPU time is told beside, since a busy one draws out what it takes. Ours writes its run directory and checkpoints meanwhile; pfl
writes nothing. Writes benchmarks/results/peers-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ENOUGH = 120
"""Sites x rounds of a turn, at least."""


def ours(sites: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds and CPU seconds of each round after the first."""
    import mpssl_fed
    from benchmarks.scale import config_of
    from mpssl_fed.runs.progress import Progress
    from mpssl_fed.runs.rounds import Round

    class Clock(Progress):
        def __init__(self) -> None:
            self.at: list[tuple[float, float]] = []

        def round(self, record: Round) -> None:
            self.at.append((time.perf_counter(), time.process_time()))

    config = config_of(sites, rounds + 1, steps)
    config["federation"]["eval_every"] = 10**6
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        mpssl_fed.simulate(config, output=f"{folder}/run", progress=clock)
    ends = clock.at[1:]  # round 0 is the initial model, the first warms up
    return {
        "wall": [b[0] - a[0] for a, b in pairwise(ends)],
        "cpu": [b[1] - a[1] for a, b in pairwise(ends)],
    }


def turn(words: list[str]) -> dict[str, list[float]]:
    """Run one side in a process of its own and return what it printed last."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    done = subprocess.run(words, cwd=HERE, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--sites", type=int, nargs="+", default=[16, 256, 1000])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(ours(*options.child)))
        return
    from benchmarks.tables import machine
    from mpssl_fed.files import write_atomic

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        f"# Peers, {today}",
        "",
        machine("; pfl 0.6.0,"),
        f"small-cnn, 10 images a site, SGD, no augmentation; ms a site and round, medians of {options.turns} turns, turn about.",
        "",
        "| sites | steps | pfl, ms of CPU | ours, ms of CPU | ratio | pfl, ms | ours, ms | ratio |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for steps in options.steps:
        for sites in options.sites:
            rounds = max(1, -(-ENOUGH // sites))
            asked = [str(n) for n in (sites, steps, rounds)]
            found: dict[str, dict[str, list[float]]] = {side: {"wall": [], "cpu": []} for side in ("pfl", "ours")}
            sides: dict[str, list[Any]] = {
                "pfl": [options.peers, "benchmarks/peer_pfl.py"],
                "ours": [sys.executable, "-m", "benchmarks.peers", "--child"],
            }
            for _ in range(options.turns):
                for side, words in sides.items():
                    for kind, values in turn([*words, *asked]).items():
                        found[side][kind] += values
            each = {side: {kind: 1e3 * median(v) / sites for kind, v in kinds.items()} for side, kinds in found.items()}
            cells = [
                f"{each['pfl'][kind]:.2f} | {each['ours'][kind]:.2f} | {each['ours'][kind] / each['pfl'][kind]:.2f}"
                for kind in ("cpu", "wall")
            ]
            lines.append(f"| {sites} | {steps} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write_atomic(options.output or HERE / "benchmarks" / "results" / f"peers-{today}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
