"""Robust strategies by hand: what a hostile reply can move, and what it cannot."""

from __future__ import annotations

import pytest
import torch

from mpssl_fed.config import from_mapping
from mpssl_fed.errors import UserError
from mpssl_fed.federation.messages import TrainReply
from mpssl_fed.federation.server.strategy import Aggregator

HERE = {"w": torch.tensor([0.0, 0.0])}
HONEST = [[1.0, 1.0], [1.2, 1.0], [1.0, 1.2], [0.9, 0.8]]
LIE = [-500.0, 900.0]


def _step(replies: list[list[float]], **strategy: object) -> list[float]:
    federation = from_mapping({"federation": {"sites": 7, "strategy": strategy}}).federation
    # the liar also claims to hold most of the images
    sizes = [1e6 if reply == LIE else 10.0 for reply in replies]
    messages = [TrainReply({"w": torch.tensor(reply)}, {"num-examples": size}) for reply, size in zip(replies, sizes, strict=True)]
    return [round(value, 5) for value in Aggregator(federation).step(1, HERE, messages)["w"].tolist()]


def test_the_mean_is_taken_over() -> None:
    assert abs(_step([*HONEST, LIE], name="fedavg")[0]) > 400


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"name": "fedmedian"}, [1.0, 1.0]),  # of -500 .9 1 1 1.2 and .8 1 1 1.2 900
        ({"name": "fedtrimmedavg", "trim": 0.2}, [0.96667, 1.06667]),  # of .9 1 1 and 1 1 1.2
        ({"name": "krum", "hostile": 1}, [1.0, 1.0]),  # its two nearest lie at .04 each
        ({"name": "multikrum", "hostile": 1}, [1.025, 1.0]),  # the mean of the four honest ones
    ],
)
def test_one_liar_of_five(strategy: dict[str, object], expected: list[float]) -> None:
    assert _step([*HONEST, LIE], **strategy) == expected
    assert _step([LIE, *HONEST], **strategy) == expected


def test_two_liars_of_seven() -> None:
    for strategy in ({"name": "fedmedian"}, {"name": "fedtrimmedavg", "trim": 0.3}, {"name": "multikrum", "hostile": 2}):
        moved = _step([*HONEST, [1.1, 1.1], LIE, LIE], **strategy)
        assert all(0.8 <= value <= 1.2 for value in moved), strategy


def test_norm_bound_scales_a_long_update() -> None:
    moved = _step([[3.0, 4.0]], name="fedmedian", norm_bound=1.0)
    assert moved == [0.6, 0.8]


def test_too_few_sites_for_krum_is_said_at_once() -> None:
    with pytest.raises(UserError, match="hostile=2 needs at least 7 sites, not 5"):
        from_mapping({"federation": {"sites": 5, "strategy": {"name": "krum", "hostile": 2}}})
