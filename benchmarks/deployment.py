"""Seconds a round of a deployment takes: with the site daemon, with the site inside the ClientApp, and with Flower's plain client.

    python -m benchmarks.deployment [--sites 3] [--rounds 4] [--output benchmarks/results/deployment-DATE.md]

Real processes on loopback, the same SuperLink (TLS, keys, database), classifier, images and local steps in all three rows. The
plain client is the pair of apps of Flower's quickstart: FedAvg, a state dict, a training loop.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mpssl_fed import config as configs
from mpssl_fed import environment
from mpssl_fed.deployment import superlink as control
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.environment import FLOWERS_POLL
from mpssl_fed.files import write_atomic
from mpssl_fed.runs.manifest import versions
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import read_history

CLIENT = """
import torch
from flwr.app import ArrayRecord, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed import config as configs
from mpssl_fed.federation import parts

app = ClientApp()

@app.train()
def train(msg, context):
    config = configs.from_json(msg.content["config"]["task"])
    torch.set_num_threads(1)
    images = parts.labelled(config, context.node_config["partition-id"])
    x, y = images.floats(), images.y
    net = build_classifier(Architecture("small-cnn", tuple("0123456789"), 1, 32))
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    optim = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(config.federation.local_steps):
        rows = torch.randint(len(x), (min(32, len(x)),))
        optim.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optim.step()
    reply = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(x)})}
    return Message(content=RecordDict(reply), reply_to=msg)
"""

SERVER = """
import json, time
from itertools import pairwise
from pathlib import Path
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from mpssl_fed.models import Architecture, build_classifier

app = ServerApp()

@app.main()
def main(grid, context):
    told = json.loads((Path(__file__).parents[1] / "configs" / "plain.json").read_text())
    times = []
    def evaluate(number, arrays):
        times.append(time.time())
        Path(told["times"]).write_text(json.dumps(times))
        return MetricRecord({"round": number})
    net = build_classifier(Architecture("small-cnn", tuple("0123456789"), 1, 32))
    n = told["sites"]
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=n, min_available_nodes=n)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(net.state_dict()), num_rounds=told["rounds"],
                   train_config=ConfigRecord({"task": told["task"]}), evaluate_fn=evaluate)
"""


class WithoutDaemon(Deployment):
    """The same deployment whose ClientApps load torch, data and model for each message."""

    def _start_daemon(self, site: int, policy: Path) -> None:
        (self.home / "sites" / str(site)).mkdir(exist_ok=True)

    def _ready(self, site: int) -> bool:
        return True

    def _node_variables(self) -> dict[str, str]:
        return environment.of_flower(self.home / "flower", self.address)  # Flower's own commands alone

    def _node_config(self, site: int) -> str:
        return f'partition-id={site} state-dir="{self.home / "sites"}"'

    def plain(self, rounds: int) -> list[float]:
        """Run Flower's own pair of apps on these nodes and return the seconds of each round."""
        bundle, times = control.write_bundle(self.home / "plain", self.config), self.home / "times.json"
        write_atomic(bundle / "clients" / "app.py", CLIENT)
        write_atomic(bundle / "server" / "app.py", SERVER)
        task = self.config.canonical_json()
        told = {"times": str(times), "sites": self.config.federation.sites, "rounds": rounds, "task": task}
        write_atomic(bundle / "configs" / "plain.json", json.dumps(told))
        run_id = self.flower.submit(bundle)
        while not (status := self.flower.status(run_id)[0]).startswith("finished"):
            time.sleep(5)
        assert status == "finished:completed", self.children.log_tail("superlink", 40)
        stamps = json.loads(times.read_text(encoding="utf-8"))
        return [after - before for before, after in pairwise(stamps)]


def seconds(kind: type[Deployment], config: configs.Config, plain_rounds: int = 0) -> tuple[list[float], list[float]]:
    """Return the seconds of each round of ours, and of Flower's plain client on the same nodes."""
    with tempfile.TemporaryDirectory() as folder, kind(config, Path(folder) / "run", note=lambda _: None) as up:
        up.serve(Progress())
        plain = up.plain(plain_rounds) if isinstance(up, WithoutDaemon) and plain_rounds else []
        return [record.seconds for record in read_history(up.run)[1:]], plain


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    federation: dict[str, Any] = {"sites": given.sites, "rounds": given.rounds, "local_steps": 5}
    small = {"data": {"labels_per_class": 4, "test_limit": 200}, "federation": federation}
    base = configs.from_mapping(small | {"method": {"name": "base"}})
    mp_ssl = configs.from_mapping(small | {"method": {"name": "mp-ssl"}})
    load = os.getloadavg()[0]
    rows: dict[str, list[float]] = {"daemon, base": seconds(Deployment, base)[0]}
    (polls,) = FLOWERS_POLL
    os.environ[polls] = "1"
    rows["daemon, base, Flower polling each second as it does by default"] = seconds(Deployment, base)[0]
    del os.environ[polls]
    rows["site in the ClientApp, base"], rows["Flower's plain client"] = seconds(WithoutDaemon, base, given.rounds)
    rows["daemon, mp-ssl"] = seconds(Deployment, mp_ssl)[0]
    rows["site in the ClientApp, mp-ssl"] = seconds(WithoutDaemon, mp_ssl)[0]
    lines = [
        "# Seconds a round, on real processes",
        "",
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load {load:.1f} at the start; "
        + ", ".join(f"{key} {value}" for key, value in versions().items())
        + ".",
        f"{given.sites} sites on one machine, small-cnn, 5 local steps, {given.rounds} rounds; the first round is apart since the "
        "daemon loads its generator in it.",
        "",
        "| client | median of later rounds, s | least | most | first round |",
        "|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        later = found[1:]
        lines.append(f"| {name} | {median(later):.1f} | {min(later):.1f} | {max(later):.1f} | {found[0]:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.output:
        write_atomic(given.output, text)


if __name__ == "__main__":
    main()
