"""What secure aggregation costs beyond a plain round, and beside Flower's own SecAgg+: seconds and bytes a site and round.

    python -m benchmarks.secure [--sizes 90000 1000000 11000000] [--sites 3 10 50] [--repeats 3] [--most 12e7] [--output FILE]

Every message of a round goes through one grid in one process: the real parts of server and site, and weights that stand for those
of training, which takes no time here. Plain, ours and Flower's take turns; medians of all repeats. Seconds are CPU seconds of the
process, all threads: others' load moves them less than a clock. Bytes: of the messages as protobuf. ``--most``: of sites x
parameters; above ``--heavy``, or at 50 sites or more, there is one repeat. ``--neighbours few``: from 33 sites on each masks with
few others. ``--alone``: without Flower's, which takes minutes a row there; else with as many shares of each secret.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import recorddict_to_proto

from benchmarks import secaggplus
from mpssl_fed.config import Config, from_mapping
from mpssl_fed.federation.engines.inprocess import InProcessGrid
from mpssl_fed.federation.messages import EXAMPLES, SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.secure_messages import SecureRequest, masked_record, said, terms_of
from mpssl_fed.federation.server.collect import ask
from mpssl_fed.federation.server.mean import RunningMean
from mpssl_fed.federation.server.summing import Summing
from mpssl_fed.federation.site.masking import InMemory, Masking
from mpssl_fed.federation.weights import to_record
from mpssl_fed.files import write_atomic
from mpssl_fed.models import Layout, Weights
from mpssl_fed.runs.manifest import versions
from mpssl_fed.runs.progress import Progress

SLOTS = 8  # the default: rounds for which one exchange of keys serves
ARRAYS, SIZE = 10, 37  # arrays of a model, images of a site


@dataclass
class Cost:
    """Of one round. at_sites and at_server: CPU seconds, all sites together; sent and received: bytes, all sites together."""

    at_sites: float = 0.0
    at_server: float = 0.0
    received: int = 0
    sent: int = 0

    @property
    def total(self) -> float:
        """CPU seconds of the round."""
        return self.at_sites + self.at_server


@dataclass
class Fleet:
    """Sites on one grid, and the clock. gone: nodes that fall out once keys are exchanged; late: whether a message comes
    after that; counting: whether bytes count."""

    sites: int
    answer: Callable[[Message, Context], Message]
    late: Callable[[Message], bool]
    gone: frozenset[int]
    cost: Cost = field(default_factory=Cost)
    counting: bool = False
    aside: float = 0.0  # seconds of counting

    def grid(self) -> InProcessGrid:
        """Return the grid that asks these sites."""
        return InProcessGrid(self, [{} for _ in range(self.sites)])

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the site at the node of ``context``."""
        if context.node_id in self.gone and self.late(message):
            return Message(Error(1, "fell out"), reply_to=message)
        self._count(message, "received")
        start = process_time()
        reply = self.answer(message, context)
        self.cost.at_sites += process_time() - start
        self._count(reply, "sent")
        return reply

    def _count(self, message: Message, way: str) -> None:
        if self.counting:
            start = process_time()
            setattr(self.cost, way, getattr(self.cost, way) + recorddict_to_proto(message.content).ByteSize())
            self.aside += process_time() - start

    def timed(self, work: Callable[[], object]) -> Cost:
        """Return what ``work``, of the server, and the sites that it asks take."""
        self.cost, self.aside, start = Cost(), 0.0, process_time()
        work()
        self.cost.at_server = process_time() - start - self.cost.at_sites - self.aside
        return self.cost


@dataclass
class Case:
    """One size of model and federation. weights: what training came to at every site, and the start."""

    parameters: int
    sites: int
    dropped: int
    folder: Path
    neighbours: str = "all"
    start: Weights = field(init=False)
    end: Weights = field(init=False)

    def __post_init__(self) -> None:
        draws = torch.Generator().manual_seed(0)
        sizes = [self.parameters // ARRAYS] * (ARRAYS - 1)
        sizes.append(self.parameters - sum(sizes))
        self.start = {f"w{i}": 0.1 * torch.randn(size, generator=draws) for i, size in enumerate(sizes)}
        self.end = {key: value + 0.01 * torch.randn(value.shape, generator=draws) for key, value in self.start.items()}

    @property
    def gone(self) -> frozenset[int]:
        """The nodes that fall out."""
        return frozenset(range(1, self.dropped + 1))

    def config(self, aggregation: str) -> Config:
        """Return the config of a run of this size."""
        secure = {"secure": {"slots": SLOTS, "min_sites": 2, "neighbours": self.neighbours}} if aggregation == "secure" else {}
        return from_mapping({"federation": {"sites": self.sites, "min_sites": 2, "aggregation": aggregation, **secure}})

    @property
    def near(self) -> int:
        """With how many sites each shares masks."""
        return terms_of(self.config("secure")).solved(self.sites).degree or self.sites - 1

    def reply(self) -> TrainReply:
        """Return what a site's training ends with."""
        return TrainReply(self.end, {EXAMPLES: float(SIZE)})

    def check(self, found: dict[str, np.ndarray], tolerance: float) -> None:
        """Hold a round's mean against the weights that all sites ended at."""
        for key, value in self.end.items():
            if np.abs(found[key].ravel() - value.double().numpy()).max() > tolerance:
                raise ValueError(f"{self}: the mean of {key} is not that of the sites")


class Plain:
    """Rounds in clear: weights there and back, averaged as they come."""

    def __init__(self, case: Case) -> None:
        self.case, self.sent = case, SentConfig.of("plain", case.config("plain"))
        self.fleet = Fleet(case.sites, self._site, lambda _: True, case.gone)
        self.grid = self.fleet.grid()

    def _site(self, message: Message, _: Context) -> Message:
        request = TrainRequest.from_record(message.content)
        for array in request.weights.values():
            array.numpy()
        return Message(self.case.reply().to_record(), reply_to=message)

    def round(self) -> Cost:
        """Run one."""
        return self.fleet.timed(self._round)

    def _round(self) -> None:
        start = self.case.start
        content = TrainRequest(self.sent, 1, to_record(start)).to_record()
        layout = Layout.of(start)
        mean = RunningMean(layout.size)

        def read(record: RecordDict) -> None:
            reply = TrainReply.from_record(record, start)
            mean.add(layout.vector(reply.weights), reply.examples)

        ask(self.grid, {node: (node, content) for node in self.grid.get_node_ids()}, "train", read, 3600.0)
        self.case.check(layout.views(mean.mean()), 1e-6)


class Ours:
    """Rounds of ``federation.aggregation: secure``, keys exchanged by the first of ``SLOTS`` rounds."""

    def __init__(self, case: Case) -> None:
        self.case, self.config, self.number = case, case.config("secure"), 0
        self.masking = {node: Masking(Path(tempfile.mkdtemp(dir=case.folder)), InMemory()) for node in range(1, case.sites + 1)}
        self.fleet = Fleet(case.sites, self._site, _after_keys, case.gone)
        self.grid, sent = self.fleet.grid(), SentConfig.of("secure", self.config)
        self.summing = Summing(self.grid, self.config, sent, case.folder / "secure.json", Progress(), threading.Event())

    def _site(self, message: Message, context: Context) -> Message:
        masking = self.masking[context.node_id]
        if message.metadata.message_type == "train":
            request = TrainRequest.from_record(message.content)
            content = masked_record(masking.masked(request, request.config(), self.case.reply))
        else:
            about = SecureRequest.from_record(message.content)
            content = said(masking.answer(about, about.config()))
        return Message(content, reply_to=message)

    def exchange(self) -> Cost:
        """Exchange keys anew."""
        self.summing.exchange = None
        nodes = {node - 1: node for node in self.grid.get_node_ids()}
        return self.fleet.timed(lambda: self.summing._exchange(nodes))

    def round(self) -> Cost:
        """Run one, with keys that are there."""
        self.number += 1
        return self.fleet.timed(self._round)

    def _round(self) -> None:
        nodes = {node - 1: node for node in self.grid.get_node_ids()}
        summed = self.summing.round(self.number, self.case.start, nodes, sorted(nodes))
        if summed.mean is None:
            raise ValueError(f"{self.case}: {summed.why}")
        self.case.check(summed.mean, 1e-6)


def _after_keys(message: Message) -> bool:
    return message.metadata.message_type == "train" or SecureRequest.from_record(message.content).phase not in (
        "hello",
        "reveal",
        "join",
    )


class Flowers:
    """Rounds of Flower's SecAgg+. shares: of each secret, by default one at each site as ours."""

    def __init__(self, case: Case, shares: int = 0) -> None:
        self.case, self.shares = case, shares or case.sites
        self.threshold = self.shares // 2 + 1 if self.shares > 3 else 2
        self.arrays = [value.numpy() for value in case.end.values()]
        self.fleet = Fleet(case.sites, self._site, secaggplus.after_keys, case.gone)
        self.grid = self.fleet.grid()

    def _site(self, message: Message, context: Context) -> Message:
        return secaggplus.site(message, context, self.arrays, SIZE)

    def round(self) -> Cost:
        """Run one."""
        return self.fleet.timed(self._round)

    def _round(self) -> None:
        start = [value.numpy() for value in self.case.start.values()]
        found = secaggplus.round_of(self.grid, start, self.shares, self.threshold)
        self.case.check(dict(zip(self.case.end, found, strict=True)), 1e-3)


def row_of(case: Case, repeats: int, alone: bool) -> str:
    """Measure one line of the table; bytes are counted in the first round, off the clock."""
    ours = Ours(case)
    each: list[Plain | Ours | Flowers] = [Plain(case), ours, *([] if alone else [Flowers(case, case.near + 1)])]
    exchanges: list[Cost] = []
    rounds: list[list[Cost]] = [[] for _ in each]
    for turn in range(repeats):
        for one in each:
            one.fleet.counting = turn == 0
        exchanges.append(ours.exchange())
        for one, costs in zip(each, rounds, strict=True):
            costs.append(one.round())
    return line(case, exchanges, rounds)


def line(case: Case, exchanges: list[Cost], rounds: list[list[Cost]]) -> str:
    """Return a line of the table: milliseconds and kilobytes a site and round; rounds: plain, ours and, where it ran, Flower's."""
    sites = case.sites

    def ms(costs: list[Cost], part: str) -> float:
        return float(1000 * median(getattr(cost, part) for cost in costs) / sites)

    of_keys = {part: ms(exchanges, part) / SLOTS for part in ("at_sites", "at_server", "total")}
    plain, ours, *flowers = ({part: ms(costs, part) for part in of_keys} for costs in rounds)
    whole = ours["total"] + of_keys["total"]
    keys, *firsts = (costs[0] for costs in (exchanges, *rounds))
    carried = [(one.sent + one.received) / 1000 / sites for one in firsts]
    carried[1] += (keys.sent + keys.received) / 1000 / sites / SLOTS
    numbers = [
        f"{plain['total']:.1f}",
        f"{ours['at_sites'] + of_keys['at_sites'] - plain['at_sites']:.1f}",
        f"{ours['at_server'] + of_keys['at_server'] - plain['at_server']:.1f}",
        f"{of_keys['total'] * SLOTS:.1f}",
        f"{whole:.1f}",
        f"{flowers[0]['total']:.1f}" if flowers else "",
        f"{whole / flowers[0]['total']:.2f}" if flowers else "",
        f"{carried[0]:.0f}",
        f"{carried[1] - carried[0]:.0f}",
        f"{carried[2] - carried[0]:.0f}" if flowers else "",
    ]
    return f"| {case.parameters:,} | {sites} | {case.near} | {case.dropped} | {len(exchanges)} | {' | '.join(numbers)} |"


HEAD = (
    "| parameters | sites | neighbours | fall out | repeats | plain, ms | beyond plain at the site, ms | and at the server, ms "
    "| keys of 8 rounds, ms | ours in all, ms | Flower's in all, ms | ours / Flower's "
    "| plain, kB | ours beyond plain, kB | Flower's beyond plain, kB |",
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[90_000, 1_000_000, 11_000_000])
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 10, 50])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=float, default=12e7)
    parser.add_argument("--heavy", type=float, default=4e7)
    parser.add_argument("--neighbours", choices=["all", "few"], default="all")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    load, rows = os.getloadavg()[0], []
    print(*HEAD, sep="\n")
    for sites in options.sites:
        for parameters in options.sizes:
            for dropped in (0, max(1, sites // 5)):
                if parameters * sites > options.most:
                    continue
                repeats = options.repeats if parameters * sites <= options.heavy and sites < 50 else 1
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(row_of(Case(parameters, sites, dropped, Path(folder), options.neighbours), repeats, options.alone))
                print(rows[-1], flush=True)
    words = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        f"# Secure aggregation, {today}",
        "",
        f"`{' '.join(['python -m benchmarks.secure', *sys.argv[1:]])}`",
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start; {words}.",
        "CPU milliseconds and kilobytes a site and round, both ways, medians of interleaved repeats.",
        "",
        *HEAD,
        *rows,
    ]
    output = options.output or Path(__file__).parent / "results" / f"secure-{today}{'-few' * (options.neighbours == 'few')}.md"
    write_atomic(output, "\n".join(lines) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
