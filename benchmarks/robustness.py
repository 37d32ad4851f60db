"""Accuracy with hostile sites: label flip, sign flip and scaled updates, 1 of 5 and 2 of 7, under each robust strategy.

    python -m benchmarks.robustness [--rounds 6] [--steps 10] [--seeds 2] [--output benchmarks/results/robustness-DATE.md]

The table is written after each row, so that an interrupted run keeps what it had; the harder federation comes first.
Real runs of `simulate` on mnist-5k, whose ClientApp is the toolkit's own; a hostile site answers through a wrapper.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from clients.app import app
from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines.simulation import preflight, simulate
from mpssl_fed.federation.messages import TrainRequest
from mpssl_fed.federation.site.site import Site
from mpssl_fed.files import write_atomic
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import open_run

FEDERATIONS = ((7, 2), (5, 1))  # sites, hostile among them
ATTACKS = ("none", "label-flip", "sign-flip", "scaled")
SCALE = 10.0


def flipped(site: Site, request: TrainRequest) -> RecordDict:
    """Return the reply of a simulated site whose label y is K - 1 - y."""
    config = request.config()
    mine = parts.simulated(config, site.partition)
    turned = replace(mine.labelled, y=len(mine.classifier.classes) - 1 - mine.labelled.y)
    mine = replace(mine, labelled=turned)
    return site.train_round(request.sent.run_id, request.round, config, request.weights, mine, None).to_record()


def strategies(hostile: int) -> dict[str, dict[str, Any]]:
    """Return the strategies compared, told how many sites are hostile."""
    return {
        "fedavg": {"name": "fedavg"},
        "fedavg, norm bound 2": {"name": "fedavg", "norm_bound": 2.0},
        "fedmedian": {"name": "fedmedian"},
        "fedtrimmedavg": {"name": "fedtrimmedavg", "trim": 0.3},
        "krum": {"name": "krum", "hostile": hostile},
        "multikrum": {"name": "multikrum", "hostile": hostile},
    }


def hostile_app(config: Config, attack: str, hostile: int) -> Callable[[Message, Context], Message]:
    """Return the ClientApp in which the last ``hostile`` sites attack."""

    def call(message: Message, context: Context) -> Message:
        site = int(str(context.node_config["partition-id"]))
        if attack == "none" or message.metadata.message_type != "train" or site < config.federation.sites - hostile:
            return app(message, context)
        if attack == "label-flip":
            folder = Path(str(context.node_config["state-dir"])) / str(site)
            return Message(flipped(Site(site, folder), TrainRequest.from_record(message.content)), reply_to=message)
        reply = app(message, context)
        factor = -1.0 if attack == "sign-flip" else -SCALE
        start, end = message.content["arrays"], reply.content["arrays"]
        assert isinstance(start, ArrayRecord)
        assert isinstance(end, ArrayRecord)
        for key in list(end):
            before, after = start[key].numpy(), end[key].numpy()
            end[key] = Array((before + factor * (after - before)).astype(np.float32))
        return reply

    return call


def accuracy(sites: int, hostile: int, attack: str, strategy: dict[str, Any], rounds: int, steps: int, seed: int) -> float:
    """Return the test accuracy after the last round of one run."""
    config = configs.from_mapping(
        {
            "seed": seed,
            "data": {"name": "mnist-5k", "labels_per_class": 10, "test_limit": 500},
            "method": {"name": "base", "augment": "half-strong"},
            "federation": {"sites": sites, "rounds": rounds, "local_steps": steps, "strategy": strategy},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(config, Path(folder) / "run")
        preflight(run.config)
        simulate(run, partial(hostile_app, run.config, attack, hostile), Progress())  # type: ignore[arg-type]
        found = read_history(run.folder)[-1].accuracy
        assert found is not None
        return found


def heading(rounds: int, steps: int, seeds: int) -> list[str]:
    """Return the lines above the tables: what was run, and on what."""
    flags = f"--rounds {rounds} --steps {steps} --seeds {seeds}"
    return [
        "# Robust aggregation",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.robustness {flags}`, {os.cpu_count()} CPU cores.",
        "mnist-5k, 10 labels per class and site, IID, small-cnn, `base` with half-strong augmentation, "
        f"{steps} local steps, {rounds} rounds;",
        f"test accuracy in percent on 500 images, mean of {seeds} seeds (least, most). Scaled: the update times -{SCALE:g}.",
        "The strategies are told how many sites are hostile; fedtrimmedavg cuts 0.3 at either end.",
    ]


def main() -> None:
    """Run every cell; print each row, and write the table so far where ``--output`` says."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--output", type=Path)
    given = options.parse_args()
    lines = heading(given.rounds, given.steps, given.seeds)
    for sites, hostile in FEDERATIONS:
        lines += ["", f"## {hostile} of {sites} sites hostile", ""]
        lines += ["| strategy | " + " | ".join(ATTACKS) + " |", "|---|" + "---|" * len(ATTACKS)]
        for name, strategy in strategies(hostile).items():
            cells = []
            for attack in ATTACKS:
                of_seed = partial(accuracy, sites, hostile, attack, strategy, given.rounds, given.steps)
                found = [100 * of_seed(seed) for seed in range(given.seeds)]
                cells.append(f"{np.mean(found):.1f} ({min(found):.1f}, {max(found):.1f})")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
            if given.output:
                write_atomic(given.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
