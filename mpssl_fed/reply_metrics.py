"""The numbers that may leave a site beside its weights. A site's owner lists in the policy which of them do."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_NUMBER, LONGEST_S = 1e12, 1e7
"""Wider than any run needs, and so small that sums over all sites stay finite."""


@dataclass(frozen=True)
class ReplyMetric:
    """One number. exact: it tells of the images without noise, so that scope ``end-to-end`` lets no owner list it; low and high:
    what a server takes of it; means: what it is."""

    name: str
    exact: bool
    low: float
    high: float
    means: str


_ALL = (
    ReplyMetric("loss", True, -LARGEST_NUMBER, LARGEST_NUMBER, "mean supervised loss of the round"),
    ReplyMetric("unsupervised", False, -LARGEST_NUMBER, LARGEST_NUMBER, "mean loss on synthetic images"),
    ReplyMetric("gap", True, -LARGEST_NUMBER, LARGEST_NUMBER, "distance of synthetic features from those of the images"),
    ReplyMetric("generated", False, 0.0, LARGEST_NUMBER, "images that went through the generator; the config alone sets it"),
    ReplyMetric("train_s", False, 0.0, LONGEST_S, "seconds of training"),
    ReplyMetric("generate_s", False, 0.0, LONGEST_S, "seconds in the generator"),
    ReplyMetric("serialise_s", False, 0.0, LONGEST_S, "seconds of reading, checking and writing"),
)
REPLY_METRICS: dict[str, ReplyMetric] = {metric.name: metric for metric in _ALL}
CONFUSION = "confusion"
"""What a policy lists as a metric where its owner lets the table of ``federation.evaluate_at_sites`` leave without noise."""

EXACT = frozenset([CONFUSION, *(metric.name for metric in _ALL if metric.exact)])

RETIRED = ("supervised", "meta")
"""What policies of version 0.1 could list and no site ever sent: in a policy they are passed over."""
