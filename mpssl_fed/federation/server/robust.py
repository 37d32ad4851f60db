"""Strategies that withstand some hostile sites, on Flower's classes. Each sees every reply; none believes a site's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum


def _every_reply(strategy: FedAvg) -> FedAvg:
    strategy.wants_every_reply = True  # type: ignore[attr-defined]
    strategy.ignores_sizes = True  # type: ignore[attr-defined]
    return strategy


class AllButHostile(MultiKrum):
    """Multi-Krum (arXiv 1703.02757) that averages n - f of n replies, however many came."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean of the n - f replies that lie closest to their neighbours."""
        replies = list(replies)
        self.num_nodes_to_select = max(1, len(replies) - self.num_malicious_nodes)
        return super().aggregate_train(server_round, replies)


ROBUST: dict[str, Callable[[Any], FedAvg]] = {
    "fedmedian": lambda _: _every_reply(FedMedian()),
    "fedtrimmedavg": lambda section: _every_reply(FedTrimmedAvg(beta=section.trim)),
    "krum": lambda section: _every_reply(Krum(num_malicious_nodes=section.hostile)),
    "multikrum": lambda section: _every_reply(AllButHostile(num_malicious_nodes=section.hostile)),
}
"""fedmedian: coordinate-wise median, fewer than n/2 hostile sites. fedtrimmedavg: mean without int(trim x n) at either end, so
many hostile sites. krum: the one reply closest to its n - f - 2 neighbours; multikrum: the mean of n - f such; both need
n >= 2 f + 3."""
