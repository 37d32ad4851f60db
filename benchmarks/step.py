"""Seconds and peak memory of a base step, an SCR step and an LMO step (naive, torchopt, decoupled, in slices), side by side.

    python -m benchmarks.step [--model small-cnn resnet18] [--repeats 2] [--turns 3] [--output FILE]

CPU seconds of one thread, the least of repeats and turns, turn about; memory above the level before the work. On CUDA: wall
seconds between synchronisations and the allocator's peak. Real digits, the embedded generator.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F

from benchmarks.memory import in_turn
from mpssl_fed.config import from_mapping
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.partition import choose_labelled
from mpssl_fed.files import write_atomic
from mpssl_fed.generators.base import load_generator
from mpssl_fed.method import Learner, build_learner
from mpssl_fed.method.lmo import InnerStep, MetaSettings, meta_gradient
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import ExactPrivateData
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.runs.manifest import versions
from tests.method import oracles

BATCH, ETA = 32, 0.05
TORCHOPT = "LMO, torchopt MetaSGD (with its own supervised pass)"


def learner(model: str, method: str, device: str) -> Learner:
    """Return a learner on 25 digits per class, ready to step."""
    data = load_dataset("mnist-5k")
    config = from_mapping(
        {
            "model": {"name": model},
            "method": {"name": method, "batch": BATCH, "lmo_batch": BATCH, "warmup": 0.0, "look_ahead": ETA},
            "federation": {"sites": 1, "rounds": 1, "local_steps": 1000},
        }
    )
    chosen = data.train.take(choose_labelled(data.train.y.numpy(), 25, None, 0))
    classifier = build_classifier(Architecture(model, data.classes, 1, 32)).to(device)
    one = build_learner(config, Parts(chosen, classifier, load_generator("glyphs-digits", device=device), False), site=0)
    one._begin(1)
    return one


def works(model: str, device: str) -> dict[str, Callable[[], object]]:
    """Return the pieces of work by name; all at one point, none moves the latents."""
    base, scr, lmo = learner(model, "base", device), learner(model, "mp-ssl-wo-lmo", device), learner(model, "mp-ssl", device)
    assert lmo.unsupervised is not None
    source, private = lmo.source, lmo.private
    assert isinstance(source, MetaOptimised)
    assert isinstance(private, ExactPrivateData)
    classifier, theta = lmo.classifier, lmo.classifier.theta()
    g_sup = private.supervised_gradient(theta)
    draw = source.draw(BATCH, torch.Generator().manual_seed(0))
    views = lmo.views.fixed_pair(BATCH, torch.Generator().manual_seed(1))
    inner = InnerStep(classifier, lmo.unsupervised.loss, private, theta, g_sup, 5.0, partial(lmo.optimiser.look_ahead, t=1))

    def decoupled(micro_batch: int | None, gap: float = 0.0) -> object:
        return meta_gradient(inner, source, draw, views, MetaSettings(gap, micro_batch=micro_batch))

    def naive() -> object:
        value = oracles.validation_loss(
            inner, source, draw, views, lambda leaves, g: {k: p - ETA * g[k] for k, p in leaves.items()}
        )
        return oracles.naive(source, value, None, MetaSettings(0.0))

    def torchopt() -> object:
        x, y = private.train[0][:BATCH], private.train[1][:BATCH]
        return oracles.by_torchopt(inner, source, F.cross_entropy(classifier(x), y), draw, views, ETA)

    return {
        "base step": lambda: base.step(1),
        "SCR step (reused synthetic batch)": lambda: scr.step(1),
        "SCR step (fresh synthetic batch)": lambda: scr.step(0),
        "LMO, naive create_graph": naive,
        TORCHOPT: torchopt,
        "LMO, decoupled": lambda: decoupled(None),
        "LMO, decoupled, with the gap, balanced": lambda: decoupled(None, 1.0),
        f"LMO, decoupled, a slice of {BATCH} (the generator's half)": lambda: decoupled(BATCH),
        "LMO, decoupled, slices of 16": lambda: decoupled(16),
        "LMO, decoupled, slices of 8": lambda: decoupled(8),
    }


def cuda_cost(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return (wall seconds, allocator's peak MiB above the start) on the GPU."""
    work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return min(seconds), (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["small-cnn", "resnet18"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    card = torch.cuda.get_device_name() if options.device == "cuda" else "one CPU thread"
    lines = [
        f"# A step's cost, {today}",
        "",
        f"{card}; load {os.getloadavg()[0]:.1f}; batch {BATCH} real and {BATCH} synthetic, 32 px.",
    ]
    lines += ["", *(f"- {name} {version}" for name, version in versions().items())]
    for model in options.model:
        lines += ["", f"## {model}", "", "| work | seconds | / naive LMO | / torchopt | peak MiB | / torchopt |"]
        lines += ["|---|---|---|---|---|---|"]
        given = works(model, options.device)
        if options.device == "cuda":
            measured = {name: cuda_cost(work, options.repeats) for name, work in given.items()}
        else:
            measured = in_turn(given, options.turns, options.repeats)
        naive, (peer, most) = measured["LMO, naive create_graph"][0], measured[TORCHOPT]
        for name, (s, m) in measured.items():
            lines.append(f"| {name} | {s:.4f} | {s / naive:.2f} | {s / peer:.2f} | {m:.0f} | {m / most:.2f} |")
            print(lines[-1], flush=True)
    output = options.output or Path(__file__).parent / "results" / f"step-{options.device}-{today}.md"
    write_atomic(output, "\n".join(lines) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
