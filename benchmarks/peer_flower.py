"""One federation in Flower's own Ray simulation, for :mod:`benchmarks.peers`: ``peer_flower.py SITES STEPS ROUNDS PROCESSES``.

A plain PyTorch client of the small CNN, as Flower's tutorials write it: SGD on ten images a site, all of them in a step, FedAvg
at the server. Prints a JSON line: the seconds of the rounds after the first.
"""

from __future__ import annotations

import json
import sys
import time
from functools import lru_cache
from itertools import pairwise

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from mpssl_fed.models import Architecture, Classifier, build_classifier

IMAGES, CLASSES, SIZE = 10, 10, 32


def _net() -> Classifier:
    return build_classifier(Architecture("small-cnn", tuple("0123456789"), 1, SIZE))


@lru_cache(maxsize=4096)
def _images(site: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(site)
    return torch.rand(IMAGES, 1, SIZE, SIZE, generator=rng) * 2 - 1, torch.arange(CLASSES)


def _train(message: Message, context: Context, steps: int) -> Message:
    torch.set_num_threads(1)
    (x, y), net = _images(int(context.node_config["partition-id"])), _net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
    optim = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(steps):
        optim.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optim.step()
    metrics = MetricRecord({"num-examples": len(x), "steps": steps})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


def main(sites: int, steps: int, rounds: int, processes: int) -> None:
    """Run and print."""
    at: list[float] = []
    told: dict[int, MetricRecord] = {}
    client, server = ClientApp(), ServerApp()
    client.train()(lambda message, context: _train(message, context, steps))

    @server.main()
    def serve(grid: Grid, _: Context) -> None:
        def evaluate(number: int, _: ArrayRecord) -> MetricRecord:
            at.append(time.perf_counter())
            return MetricRecord({"round": number})

        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        result = strategy.start(grid, ArrayRecord(_net().state_dict()), rounds + 1, evaluate_fn=evaluate)
        told.update(result.train_metrics_clientapp)

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": processes}}
    run_simulation(server, client, sites, backend_config=backend)  # type: ignore[arg-type]
    if len(told) < rounds + 1:  # Flower goes on when all clients fail, and is fast then
        raise SystemExit(f"{len(told)} of {rounds + 1} rounds were trained: Flower's clients failed")
    print(json.dumps({"wall": [after - before for before, after in pairwise(at[1:])], "cpu": []}))


if __name__ == "__main__":
    from benchmarks import peer_flower  # noqa: PLW0406  Ray's workers know what is in a module, and nothing of this one

    peer_flower.main(*map(int, sys.argv[1:]))
