"""Seconds and peak memory of a simulation against its sites, and files and memory against its rounds, each in a fresh process.

    python -m benchmarks.scale [--sites 10 100 1000 10000] [--rounds 10 100 1000] [--workers 1] [--output FILE]

Sites hold ten images each of a data set that is drawn here, so that any number of them can be had: random pixels, which cost what
digits cost. Writes benchmarks/results/scale-DATE.md with the slope of seconds over sites on a log-log scale, of two sizes
of 100 sites or more: 1 is linear.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

IMAGES = 10
HERE = Path(__file__).resolve().parents[1]


def config_of(sites: int, rounds: int, steps: int = 1) -> dict[str, Any]:
    """Return the config of a federation on images that are drawn, by a reader that this adds: plain averaging, SGD, no views."""
    import torch

    from mpssl_fed.data.base import DATASETS, Dataset, Images

    @DATASETS.add(f"drawn-{sites}")
    def drawn(root: Path | None = None, size: int | None = None, download: bool = False) -> Dataset:  # noqa: ARG001
        rng = torch.Generator().manual_seed(0)
        y = torch.arange(10).repeat(sites * IMAGES // 10)
        train = Images(torch.randint(256, (len(y), 1, 32, 32), dtype=torch.uint8, generator=rng), y)
        test = Images(torch.randint(256, (100, 1, 32, 32), dtype=torch.uint8, generator=rng), torch.arange(10).repeat(10))
        return Dataset("drawn", tuple("0123456789"), train, test, flip=False)

    return {
        "data": {"name": f"drawn-{sites}", "labels_per_class": 1, "partition": {"name": "iid"}},
        "method": {"name": "base", "augment": "none"},
        "optim": {"name": "sgd", "lr": 0.05, "weight_decay": 0},
        "federation": {"sites": sites, "rounds": rounds, "local_steps": steps, "deadline_s": 36000},
    }


def child(sites: int, rounds: int, workers: int) -> dict[str, Any]:
    """Simulate and return what it took: seconds, seconds of CPU, MiB at the peak of process and worker, files."""
    import mpssl_fed

    config = config_of(sites, rounds)
    config["federation"]["workers"] = workers
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = mpssl_fed.simulate(config, output=f"{folder}/run")
        total = time.perf_counter() - start
        files = [file for file in run.folder.rglob("*") if file.is_file()]
        return {
            "rounds_s": sum(one.seconds for one in run.history),
            "total_s": total,
            "cpu_s": sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)),
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "worker_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
            "files": len(files),
            "file_mib": sum(file.stat().st_size for file in files) / 2**20,
        }


def measured(sites: int, rounds: int, workers: int) -> dict[str, Any]:
    """Return what :func:`child` does, of a process of its own."""
    words = [sys.executable, "-m", "benchmarks.scale", "--child", str(sites), str(rounds), str(workers)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    done = subprocess.run(words, cwd=HERE, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def slope(x: list[int], y: list[float]) -> float:
    """Return the least-squares slope of log y over log x."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True)) / sum((p - mean_a) ** 2 for p in a)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100, 1000, 10000])
    parser.add_argument("--rounds", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    from benchmarks.tables import machine
    from mpssl_fed.files import write_atomic

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    peak = "peak, MiB" if options.workers == 1 else "peak of server + largest worker, MiB, shared pages in both"
    lines = [
        f"# Scale, {today}",
        "",
        machine(f", {options.workers} worker(s);"),
        f"small-cnn (90 k parameters), one local step of `base` without augmentation on {IMAGES} images a site; a process a row.",
        "",
        f"| sites | rounds | rounds, s | in all, s | CPU, s | ms of CPU a site and round | {peak} | files | MiB of files |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)

    def row(sites: int, rounds: int) -> dict[str, Any]:
        one = measured(sites, rounds, options.workers)
        each = 1e3 * one["cpu_s"] / (sites * rounds)
        worker = f" + {one['worker_mib']:.0f}" if options.workers > 1 else ""
        lines.append(
            f"| {sites} | {rounds} | {one['rounds_s']:.1f} | {one['total_s']:.1f} | {one['cpu_s']:.1f} | {each:.2f} "
            f"| {one['memory_mib']:.0f}{worker} | {one['files']} | {one['file_mib']:.1f} |"
        )
        print(lines[-1], flush=True)
        return one

    found = [row(sites, 2) for sites in options.sites]
    large = [(s, one) for s, one in zip(options.sites, found, strict=True) if s >= 100]
    for rounds in options.rounds:
        row(10, rounds)
    sizes = [sites for sites, _ in large]
    if len(set(sizes)) > 1:  # below, what a run takes at its start is most of it
        steep = slope(sizes, [one["rounds_s"] for _, one in large])
        lines += ["", f"Slope of the rounds' seconds over sites, log-log, from {min(sizes)} sites: {steep:.2f}."]
        print(lines[-1])
    write_atomic(options.output or HERE / "benchmarks" / "results" / f"scale-{today}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
