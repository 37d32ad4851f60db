"""What privacy costs: releases beside the plain gradient and Opacus, and whole mp-ssl steps beside the plain ones.

    python -m benchmarks.privacy [--model small-cnn resnet18] [--repeats 2 1] [--turns 3] [--output FILE]

CPU seconds of one thread, the least of repeats and turns, turn about; peak resident memory above the level before the work. Each
draw has exactly 32 of 320 units, so that every row works on as many images. Real digits, the embedded generator.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.memory import in_turn
from mpssl_fed.config import Config, from_mapping
from mpssl_fed.data.datasets import Images, load_dataset
from mpssl_fed.data.partition import choose_labelled
from mpssl_fed.files import write_atomic
from mpssl_fed.generators.base import load_generator
from mpssl_fed.method import Learner, build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Architecture, Classifier, Params, build_classifier
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.noise import SecureNoise
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.runs.manifest import versions
from tests.privacy.opacus_oracle import OpacusSums, no_addition_in_place

UNITS, BATCH, STEPS = 320, 32, 5


class ThirtyTwo(SecureNoise):
    """The secure source, but each draw has just 32 units."""

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        """Return the first 32 of a secret order."""
        return np.sort(np.argsort(self.normals(units))[:BATCH])


class OpacusData(DPPrivateData):
    """Release (a) through Opacus on a copy of the classifier, wrapped once; the rest as usual."""

    opacus: OpacusSums

    def gradient_sum(self, theta: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return Opacus' clipped sum over the augmented batch."""
        with torch.no_grad():
            for mine, other in zip(self.opacus.model.parameters(), theta.values(), strict=True):
                mine.copy_(other)
        found = self.opacus(*self._augmented.load(torch.cat(list(batch))))
        return [found[name] for name in theta]


def config_of(model: str, backend: str = "layers", private: bool = True, method: str = "mp-ssl") -> Config:
    """Return the config of the default method at epsilon 8."""
    privacy = {"epsilon": 8.0, "public_size": UNITS, "sample_rate": BATCH / UNITS, "delta": 1e-4, "per_unit": backend}
    return from_mapping(
        {
            "model": {"name": model},
            "method": {"name": method, "lmo_every": STEPS},
            "federation": {"sites": 1, "rounds": 1, "local_steps": 1000},
            "privacy": privacy if private else {},
        }
    )


def site(model: str) -> tuple[Classifier, Images]:
    """Return a classifier and 32 digits per class."""
    data = load_dataset("mnist-5k")
    labelled = data.train.take(choose_labelled(data.train.y.numpy(), UNITS // 10, None, 0))
    return build_classifier(Architecture(model, data.classes, 1, data.size)), labelled


def releases(model: str, backend: str, mode: str | None = None) -> DPPrivateData:
    """Return the releases of a site, their (a) through Opacus where ``mode`` is hooks or ghost."""
    config = config_of(model, backend)
    classifier, labelled = site(model)
    plan = plan_for(config)
    private = private_data(config, Parts(labelled, classifier, None, False), plan=plan, charge=lambda *_: None, noise=ThirtyTwo())
    assert isinstance(private, DPPrivateData)
    if mode is not None:
        private.__class__ = OpacusData
        private.opacus = OpacusSums(copy.deepcopy(classifier), private.settings.clip("gradient"), mode)  # type: ignore[attr-defined]
    return private


def learner(model: str, private: DPPrivateData | None) -> Learner:
    """Return a learner of mp-ssl, ready to step."""
    classifier, labelled = site(model)
    config = config_of(model, private=private is not None)
    one = build_learner(
        config,
        Parts(labelled, private.classifier if private else classifier, load_generator("glyphs-digits"), False),
        site=0,
        private=private,
    )
    one._begin(1)
    return one


def single_reads(model: str) -> dict[str, Callable[[], object]]:
    """Return one read each, by name."""
    classifier, labelled = site(model)
    x, y = labelled.floats()[:BATCH], labelled.y[:BATCH]
    theta = classifier.theta()

    def plain() -> object:
        return torch.autograd.grad(F.cross_entropy(classifier(x), y), list(theta.values()))

    own, vmap, loop = (releases(model, backend) for backend in ("layers", "vmap", "loop"))
    hooks, ghost = (releases(model, "vmap", mode) for mode in ("hooks", "ghost"))
    return {
        "plain gradient of the batch": plain,
        "release (a), formulas of layers": lambda: own.supervised_gradient(own.classifier.theta()),
        "release (a), vmap": lambda: vmap.supervised_gradient(vmap.classifier.theta()),
        "release (a), loop": lambda: loop.supervised_gradient(loop.classifier.theta()),
        "release (a), Opacus hooks": lambda: hooks.supervised_gradient(hooks.classifier.theta()),
        "release (a), Opacus ghost": lambda: ghost.supervised_gradient(ghost.classifier.theta()),
        "release (b), norm layers, formulas": lambda: own.validation_gradient(own.classifier.theta()),
        "release (b), norm layers, vmap": lambda: vmap.validation_gradient(vmap.classifier.theta()),
        "release (b), norm layers, loop": lambda: loop.validation_gradient(loop.classifier.theta()),
        "release (c)": lambda: own.mean_feature(own.classifier.theta()),
    }


def whole_steps(model: str) -> dict[str, Callable[[], object]]:
    """Return five steps of mp-ssl each, the first with latent meta-optimisation, by name."""
    learners = {
        "not private": learner(model, None),
        "end-to-end": learner(model, releases(model, "layers")),
        "end-to-end, (a) and (b) by vmap": learner(model, releases(model, "vmap")),
        "end-to-end, (a) by Opacus hooks": learner(model, releases(model, "layers", "hooks")),
        "end-to-end, (a) by Opacus ghost": learner(model, releases(model, "layers", "ghost")),
    }
    return {name: partial(_steps, one) for name, one in learners.items()}


def _steps(one: Learner) -> None:
    for t in range(STEPS):
        one.step(t)


def table(title: str, works: dict[str, Callable[[], object]], steps: int, turns: int, repeats: int) -> list[str]:
    """Return the lines of one table; the first row is the reference of the ratios."""
    lines = ["", f"## {title}", "", "| work | CPU s | / first | peak MiB | / first |", "|---|---|---|---|---|"]
    first: tuple[float, float] | None = None
    for name, (all_seconds, peak) in in_turn(works, turns, repeats).items():
        seconds = all_seconds / steps
        first = first or (seconds, peak)
        print(f"{title}: {name}: {seconds:.4f} s, {peak:.0f} MiB", flush=True)
        ratios = seconds / first[0], peak / max(first[1], 1e-3)
        lines.append(f"| {name} | {seconds:.4f} | {ratios[0]:.2f} | {peak:.0f} | {ratios[1]:.2f} |")
    return lines


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["small-cnn", "resnet18"])
    parser.add_argument("--repeats", type=int, nargs="+", default=[2, 1], help="one number a model")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        f"# What privacy costs, {today}",
        "",
        f"One CPU thread; load {os.getloadavg()[0]:.1f}; {BATCH} real images of 32 px a draw, 48 synthetic ones a step, latent "
        f"meta-optimisation of 24 every {STEPS} steps; secure noise and draws; max_physical_batch 32.",
        "",
        *(f"- {name} {version}" for name, version in versions().items()),
    ]
    with no_addition_in_place():
        for model, repeats in zip(options.model, options.repeats, strict=True):
            lines += table(f"One read, {model}", single_reads(model), 1, options.turns, repeats)
            lines += table(f"A step of mp-ssl, {model}", whole_steps(model), STEPS, options.turns, repeats)
    output = options.output or Path(__file__).parent / "results" / f"privacy-{today}.md"
    write_atomic(output, "\n".join(lines) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
