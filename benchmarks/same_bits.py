"""Two commits on one machine: do a handful of small runs end in the same bits?

    python -m benchmarks.same_bits OLD NEW

Each commit is unpacked beside the other and runs, in process and with one seed, what RUNS lists; under differential privacy
draws and noise come from a counter, since they otherwise differ from run to run. Hashed: the trained weights, and the latents
that the sites ended with. Bits depend on the processor, so no hash is stored to compare with later: the log says that two
commits agreed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
LOG = HERE / "benchmarks" / "results" / "same-bits.md"
MP_SSL = {"name": "mp-ssl", "batch": 8, "lmo_batch": 8, "lmo_every": 2, "refresh_every": 1, "buffer": 2}
PRIVATE = {"epsilon": 8, "delta": 1e-4, "public_size": 50, "sample_rate": 1.0}
FEDERATION: dict[str, object] = {"sites": 3, "rounds": 2, "local_steps": 4}
TINY = {
    "seed": 7,
    "data": {"name": "mnist-5k", "labels_per_class": 2, "test_limit": 200},
    "federation": FEDERATION,
}
RUNS = {
    "mp-ssl": {"method": MP_SSL},
    "mp-ssl, private": {"method": MP_SSL, "privacy": PRIVATE},
    "mp-ssl, labelled-step": {"method": MP_SSL, "privacy": PRIVATE | {"scope": "labelled-step"}},
    "p-ssl, private": {"method": {"name": "p-ssl", "batch": 8, "buffer": 2}, "privacy": PRIVATE},
    "naive-gssl, warm head, anchor, fedprox": {
        "method": {"name": "naive-gssl", "batch": 8},
        "warm_start": {"part": "head", "steps": 5},
        "federation": FEDERATION | {"anchor": {"weight": 0.5}, "strategy": {"name": "fedprox", "proximal_mu": 0.1}},
    },
    "base, body frozen, private": {"method": {"name": "base"}, "model": {"trainable": "head"}, "privacy": PRIVATE},
}

PROGRAM = """
import hashlib, itertools, json, sys, types
from pathlib import Path
import mpssl_fed
from mpssl_fed.privacy import noise, releases
from safetensors.numpy import load_file

counter = itertools.count()
counted = lambda n: hashlib.sha256(b"%d" % next(counter)).digest()[:n]
noise.SecureNoise.__init__.__defaults__ = (counted,)  # draws and noise
releases.os = types.SimpleNamespace(urandom=counted)  # views of labelled images

def digest(files):
    total = hashlib.sha256()
    for file in files:  # a run's id is in the name of what a site keeps, and differs
        for name, value in sorted(load_file(file).items()):
            if name.startswith(("before/", "update/")):
                continue
            total.update(f"{name}/{value.dtype}/{value.shape}".encode() + value.tobytes())
    return total.hexdigest()

tiny, runs, folder = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
for number, (name, keys) in enumerate(runs.items()):
    run = mpssl_fed.simulate(tiny | keys, output=folder / str(number))
    kept = sorted((run.folder / "sites").rglob("*.safetensors"), key=lambda file: (file.parent.name, file.name.rpartition("-")[2]))
    kept = [file for file in kept if int(file.stem.rpartition("-")[2]) == run.config.federation.rounds]
    print(json.dumps([name, digest([run.folder / "model.safetensors"]), digest(kept)]), flush=True)
"""


def main(old: str, new: str) -> int:
    """Run both commits, write the log and return 0 where every run ends in the same bits."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for commit in dict.fromkeys((old, new)):
            found[commit] = _ends(commit, Path(folder) / commit)
    same = found[old] == found[new] and len(found[old]) == len(RUNS)
    text = _page(old, new, found[old], found[new])
    LOG.write_text(text, encoding="utf-8")
    print(text)
    return 0 if same else 1


def _ends(commit: str, folder: Path) -> dict[str, tuple[str, str]]:
    """Return run -> (hash of the weights, hash of what the sites kept) at ``commit``."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=HERE, capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"{commit}: {archive.stderr.decode().strip()}; want a commit of {HERE}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    env = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(TINY), json.dumps(RUNS), str(folder / "runs")]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{commit}: {done.stderr[-3000:]}")
    return {name: (weights, kept) for name, weights, kept in map(json.loads, done.stdout.splitlines())}


def _page(old: str, new: str, before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> str:
    def row(name: str) -> str:
        same = "yes" if before[name] == after[name] else "**no**"
        return (
            f"| {name} | {before[name][0][:16]} | {after[name][0][:16]} | {before[name][1][:16]} | {after[name][1][:16]} | {same} |"
        )

    lines = [
        "# Two commits, the same bits",
        "",
        f"`python -m benchmarks.same_bits {old} {new}`: small runs in process, one seed, one {platform.machine()} machine.",
        "The first 16 digits of the SHA-256 of the trained weights, and of the latents that the sites ended with.",
        "Under differential privacy draws and noise came from a counter.",
        "",
        f"| run | weights {old[:8]} | weights {new[:8]} | sites {old[:8]} | sites {new[:8]} | same |",
        "|---|---|---|---|---|---|",
        *(row(name) for name in before),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    raise SystemExit(main(**vars(parser.parse_args())))
