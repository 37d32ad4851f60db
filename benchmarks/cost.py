"""What each method costs: time a step, peak memory, generator passes, time to a given accuracy.

    python -m benchmarks.cost [--methods base mp-ssl ...] [--target 0.8] [--rounds 8] [--repeats 3] [--device cpu] [--output FILE]

One site, ten real digits per class, small CNN, the embedded generator, one thread. A step: mean over a period of new synthetic
batches and latent meta-optimisations (the least CPU time of the repeats, and wall clock beside it); memory: peak above the level
before; on CUDA wall clock and the allocator's peak. Time to the target: one run at the site, evaluation left out.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import torch

from benchmarks.memory import cost
from benchmarks.step import cuda_cost
from mpssl_fed.config import METHODS, Config, from_mapping
from mpssl_fed.config.learning import CONTROLS
from mpssl_fed.data.datasets import Dataset, load_dataset
from mpssl_fed.data.partition import choose_labelled
from mpssl_fed.federation.server.evaluate import evaluate
from mpssl_fed.files import write_atomic
from mpssl_fed.generators.base import load_generator
from mpssl_fed.method import Learner, build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.runs.manifest import versions

STEPS = 20  # a round; also what a step's cost is averaged over: four periods of the defaults


def config_of(method: str, rounds: int) -> Config:
    """Return the run: one site, the defaults but for the labelled augmentation."""
    federation = {"sites": 1, "rounds": rounds, "local_steps": STEPS}
    return from_mapping({"method": {"name": method, "augment": "half-strong"}, "federation": federation})


def learner_of(config: Config, data: Dataset, device: str) -> Learner:
    """Return the site's learner; ssl-real gets every other image without its label."""
    chosen = choose_labelled(data.train.y.numpy(), 10, None, 0)
    rest = torch.ones(len(data.train), dtype=torch.bool)
    rest[torch.from_numpy(chosen)] = False
    classifier = build_classifier(Architecture("small-cnn", data.classes, data.channels, data.size)).to(device)
    generator, unlabeled = load_generator("glyphs-digits", device=device), data.train.take(rest.nonzero().flatten())
    return build_learner(config, Parts(data.train.take(chosen), classifier, generator, False, unlabeled), site=0)


def of_a_step(method: str, data: Dataset, device: str, repeats: int) -> tuple[float, float, float, float]:
    """Return (wall milliseconds, CPU milliseconds, peak MiB, generator images) a step."""
    learner = learner_of(config_of(method, 100), data, device)
    rounds = iter(range(1, 101))
    walls: list[float] = []
    images: list[float] = []

    def work() -> None:
        start = perf_counter()
        images.append(learner.train(next(rounds))["generated"] / STEPS)
        walls.append(1000 * (perf_counter() - start) / STEPS)

    seconds, peak = cuda_cost(work, repeats) if device == "cuda" else cost(work, repeats)
    return min(walls[1:]), math.nan if device == "cuda" else 1000 * seconds / STEPS, peak, images[-1]


def to_accuracy(method: str, data: Dataset, device: str, rounds: int, target: float) -> tuple[float | None, int, float]:
    """Return (seconds of training to the first round at ``target`` or None, its steps, accuracy at the end of ``rounds``)."""
    learner = learner_of(config_of(method, rounds), data, device)
    clock: Callable[[], float] = perf_counter if device == "cuda" else process_time
    spent, reached = 0.0, None
    accuracy: float | None = None
    for number in range(1, rounds + 1):
        start = clock()
        learner.train(number)
        spent += clock() - start
        accuracy = evaluate(learner.classifier, data.test)[0].accuracy
        assert accuracy is not None
        if reached is None and accuracy >= target:
            reached = (spent, number * STEPS)
    assert accuracy is not None
    return (*reached, accuracy) if reached else (None, rounds * STEPS, accuracy)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if name not in CONTROLS])
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    data = load_dataset("mnist-5k")
    where = torch.cuda.get_device_name() if options.device == "cuda" else "one CPU thread"
    goal = f"{'s' if options.device == 'cuda' else 'CPU s'} to {100 * options.target:g} %"
    lines = [
        f"# What each method costs, {today}",
        "",
        f"{where}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. MNIST, 10 labels per class, half-strong augmentation, "
        "small CNN, glyphs-digits; batches of 32 real and 48 synthetic images. Time to accuracy: one seed, "
        f"{options.rounds} rounds of {STEPS} steps.",
        "",
        *(f"- {name} {version}" for name, version in versions().items()),
        "",
        "| method | ms per step | CPU ms per step | / base | peak MiB | generator images per step "
        f"| {goal} | steps to it | accuracy at the end (%) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = math.nan
    for method in options.methods:
        wall, cpu, peak, images = of_a_step(method, data, options.device, options.repeats)
        own = wall if options.device == "cuda" else cpu
        base = own if method == "base" else base
        seconds, steps, accuracy = to_accuracy(method, data, options.device, options.rounds, options.target)
        reached = ["not reached", "–"] if seconds is None else [f"{seconds:.2f}", str(steps)]
        numbers = [
            f"{wall:.1f}",
            f"{cpu:.1f}",
            f"{own / base:.2f}",
            f"{peak:.0f}",
            f"{images:.1f}",
            *reached,
            f"{100 * accuracy:.1f}",
        ]
        lines.append(f"| {method} | {' | '.join(numbers)} |")
        print(lines[-1], flush=True)
    output = options.output or Path(__file__).parent / "results" / f"cost-{today}.md"
    write_atomic(output, "\n".join(lines) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
