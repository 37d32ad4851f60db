"""Seconds until something happens: the help, the error of a typo, the first step of a simulation; each in a fresh process.

    python -m benchmarks.start [--repeats 5] [--output FILE]

CPU seconds of the whole process, which a busy machine draws out least, and seconds of the clock; medians. Writes
benchmarks/results/start-DATE.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
CLI = ["-m", "mpssl_fed.cli"]
FIRST_STEP = """
import os, sys
from mpssl_fed import api
from mpssl_fed.runs.progress import Progress

class First(Progress):
    def step(self, what, done, total):
        if "site" in what:
            os._exit(0)

api.simulate("demo", output=sys.argv[1], progress=First())
sys.exit("no step came")
"""


def once(words: list[str], ends: int) -> tuple[float, float]:
    """Run one process to its end with the exit code ``ends``; return its CPU seconds and those of the clock."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], cwd=HERE, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != ends:
        raise SystemExit(f"{words}: {said.decode()[-2000:]}")
    return used.ru_utime + used.ru_stime, took


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    from benchmarks.tables import machine
    from mpssl_fed.files import write_atomic

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        f"# Start, {today}",
        "",
        machine(f", {options.repeats} repeats;"),
        "",
        "| what | CPU, s | clock, s |",
        "|---|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        asked: list[tuple[str, list[str], int]] = [
            ("`mpssl-fed --help`", [*CLI, "--help"], 0),
            ("`mpssl-fed simulate demo federation.ruonds=3`, an error", [*CLI, "simulate", "demo", "federation.ruonds=3"], 2),
            ("`simulate demo` to its first step", ["-c", FIRST_STEP], 0),
        ]
        for what, words, ends in asked:
            found = [once([*words, f"{folder}/{i}"] if words[0] == "-c" else words, ends) for i in range(options.repeats)]
            lines.append(f"| {what} | {median(cpu for cpu, _ in found):.2f} | {median(clock for _, clock in found):.2f} |")
            print(lines[-1], flush=True)
    write_atomic(options.output or HERE / "benchmarks" / "results" / f"start-{today}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
