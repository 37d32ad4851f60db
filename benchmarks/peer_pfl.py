"""One federation in pfl-research, for :mod:`benchmarks.peers`, in an environment that has pfl: ``peer_pfl.py SITES STEPS ROUNDS``.

Plain FedAvg of the small CNN by SGD on ten images a site, all of them in a step, as pfl's own tutorials write it. Prints a
JSON line: seconds and CPU seconds of the rounds after the first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

from mpssl_fed.models import Architecture, build_classifier

IMAGES, CLASSES, SIZE = 10, 10, 32


class Net(torch.nn.Module):
    """The classifier, with the loss and the metrics that pfl asks a model for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build_classifier(Architecture("small-cnn", tuple("0123456789"), 1, SIZE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.net(x)
        return logits

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy."""
        self.train()
        return F.cross_entropy(self(x), y.long())

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        """Return the loss, weighted."""
        self.eval()
        return {"loss": Weighted.from_unweighted(F.cross_entropy(self(x), y.long()).item())}


class Clock(TrainingProcessCallback):  # type: ignore[misc]  # pfl is in an environment of its own
    """Notes the end of every round."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []

    def after_central_iteration(self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int) -> tuple[bool, Metrics]:
        """Note it."""
        self.at.append((time.perf_counter(), time.process_time()))
        return False, Metrics()


def main(sites: int, steps: int, rounds: int) -> None:
    """Run and print."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.random((sites * IMAGES, 1, SIZE, SIZE), dtype=np.float32) * 2 - 1
    y = np.tile(np.arange(CLASSES), sites * IMAGES // CLASSES)
    data = {s: Dataset(raw_data=[x[s * IMAGES : (s + 1) * IMAGES], y[s * IMAGES : (s + 1) * IMAGES]]) for s in range(sites)}
    users = FederatedDataset(data.__getitem__, get_user_sampler("minimize_reuse", list(data)))
    net = Net()
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    clock = Clock()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds + 1, evaluation_frequency=10**6, train_cohort_size=sites, val_cohort_size=0
        ),
        SimulatedBackend(training_data=users, val_data=users),
        model,
        NNTrainHyperParams(local_num_epochs=steps, local_learning_rate=0.05, local_batch_size=IMAGES),
        NNEvalHyperParams(local_batch_size=IMAGES),
        callbacks=[clock],
    )
    walls, cpus = zip(*clock.at, strict=True)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes, where there are several
        print("\n" + json.dumps({"wall": np.diff(walls).tolist(), "cpu": np.diff(cpus).tolist()}), flush=True)
    if (
        torch.distributed.is_initialized()
    ):  # pfl leaves its group's threads to the interpreter's end, which sometimes aborts on them
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
