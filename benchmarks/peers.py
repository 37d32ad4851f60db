"""The same federated averaging here, in pfl-research and in Flower's simulation, turn about: milliseconds a site and round.

    python -m benchmarks.peers --peers PYTHON [--sites 16 256 1000] [--steps 1 10] [--processes 1 2] [--turns 3] [--output FILE]

PYTHON: the interpreter of an environment that has pfl-research 0.6 and the torch of this one. Equal work: small CNN, ten images a
site in one batch, SGD, no augmentation, one thread a process; several processes are workers here, torchrun's of pfl, Ray's of
Flower, whose client is plain PyTorch. All go in turn, so that what else a machine does falls on each; CPU time is told beside for
one process, since a busy machine draws out what it takes. Ours writes its run directory and checkpoints meanwhile; the others write
nothing. A turn that its own processes abort, as pfl's now and then do at their start, is taken again and told of. Writes
benchmarks/results/peers-DATE.md after every row.
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
from statistics import mean, median

HERE = Path(__file__).resolve().parents[1]
ENOUGH = 1000
"""Sites x rounds x steps of a turn, at least: some seconds, since a shared machine changes its speed from second to second."""
ATTEMPTS = 3


def ours(sites: int, steps: int, rounds: int, processes: int) -> dict[str, list[float]]:
    """Return seconds and, of this process, CPU seconds of each round after the first."""
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
    config["federation"] |= {"eval_every": 10**6, "workers": processes}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        mpssl_fed.simulate(config, output=f"{folder}/run", progress=clock)
    ends = clock.at[1:]  # round 0 is the initial model, the first warms up
    return {
        "wall": [b[0] - a[0] for a, b in pairwise(ends)],
        "cpu": [b[1] - a[1] for a, b in pairwise(ends)],
    }


def turn(words: list[str], lost: list[str]) -> dict[str, list[float]]:
    """Run one side apart and return what it printed last; ``lost`` gets what attempts without an end said."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    for _ in range(ATTEMPTS):
        done = subprocess.run(words, cwd=HERE, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if not done.returncode:
            found: dict[str, list[float]] = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line[:1] == "{"))
            return found
        lost.append(done.stderr[-3000:])
    raise SystemExit(lost[-1])


def sides(peers: str, processes: int, flower: bool) -> dict[str, list[str]]:
    """Return what starts each side; sites, steps and rounds follow."""
    run = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29617"] if processes > 1 else []
    found = {"pfl": [peers, *run, "benchmarks/peer_pfl.py"], "ours": [sys.executable, "-m", "benchmarks.peers", "--child"]}
    return found | ({"flower": [sys.executable, "benchmarks/peer_flower.py"]} if flower else {})


def row(options: argparse.Namespace, sites: int, steps: int, processes: int) -> tuple[str, list[str]]:
    """Measure one row of the table; return it and the sides whose turns were taken again."""
    rounds = -(-ENOUGH // (sites * steps))
    starts = sides(options.peers, processes, sites in options.flower and processes > 1)
    found: dict[str, dict[str, list[float]]] = {side: {"wall": [], "cpu": []} for side in starts}
    again: list[str] = []
    for _ in range(options.turns):
        for side, words in starts.items():
            asked = [str(n) for n in (sites, steps, rounds, *([] if side == "pfl" else [processes]))]
            lost: list[str] = []
            for kind, values in turn([*words, *asked], lost).items():
                found[side][kind] += [mean(values)] if values else []
            for said in lost:
                print(said, file=sys.stderr)
                again.append(f"{side}, {sites} sites, {steps} steps, {processes} processes")

    def of(side: str, kind: str) -> list[float]:
        """Milliseconds a site and round, a number a turn; none where the column is of another row."""
        known = found.get(side, {}).get(kind, [])
        return [1e3 * seconds / sites for seconds in known] if kind == "wall" or processes == 1 else []

    cells: list[str] = []
    for kind in ("cpu", "wall"):
        pfl, mine, flower = (of(side, kind) for side in ("pfl", "ours", "flower"))
        cells += [_middle(pfl), _middle(mine), _quotient(mine, pfl)]
        cells += [_middle(flower), _quotient(mine, flower)] if kind == "wall" else []
    return f"| {sites} | {steps} | {processes} | {' | '.join(cells)} |", again


def _middle(values: list[float]) -> str:
    return f"{median(values):.2f}" if values else ""


def _quotient(mine: list[float], theirs: list[float]) -> str:
    """The median of the turns' ratios, with the least and the greatest: what is of one turn met the same machine."""
    ratios = [a / b for a, b in zip(mine, theirs, strict=False)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--sites", type=int, nargs="+", default=[16, 256, 1000])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--flower", type=int, nargs="*", default=[16, 256], help="of how many sites Flower's simulation runs too")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--child", type=int, nargs=4, help=argparse.SUPPRESS)
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
        f"small-cnn, 10 images a site, SGD, no augmentation; ms a site and round, medians of {options.turns} turns, turn about;",
        f"a turn's is the mean of its rounds, {ENOUGH} site-steps or more; of ratios, turn by turn, least and greatest too.",
        "CPU: of one process; the other columns are of the clock. flower: its Ray simulation with a plain PyTorch client.",
        "",
        "| sites | steps | processes | pfl, CPU | ours, CPU | ours / pfl | pfl | ours | ours / pfl | flower | ours / flower |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    again: list[str] = []
    file = options.output or HERE / "benchmarks" / "results" / f"peers-{today}.md"
    for steps in options.steps:
        for sites in options.sites:
            for processes in options.processes:
                found, more = row(options, sites, steps, processes)
                lines.append(found)
                again += more
                print(lines[-1], flush=True)
                told = ["", f"Turns that ended without a result and were taken again: {'; '.join(again)}."] if again else []
                write_atomic(file, "\n".join([*lines, *told]) + "\n")


if __name__ == "__main__":
    main()
