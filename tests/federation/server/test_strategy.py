"""Each strategy reproduces a step worked out by hand, in float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from mpssl_fed.config import from_mapping
from mpssl_fed.config.secure import NEEDS_EVERY_REPLY
from mpssl_fed.errors import UserError
from mpssl_fed.federation.messages import TrainReply
from mpssl_fed.federation.server.mean import RunningMean
from mpssl_fed.federation.server.robust import ROBUST
from mpssl_fed.federation.server.strategy import Aggregator

HERE = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(0.5)}
REPLIES = [
    TrainReply({"w": torch.tensor([3.0, 2.0]), "b": torch.tensor(0.0)}, {"num-examples": 1.0}),
    TrainReply({"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(1.0)}, {"num-examples": 3.0}),
]
MEAN_W, MEAN_B = np.array([1.5, -1.0]), 0.75  # (1 x first + 3 x second) / 4


def _aggregator(**strategy: object) -> Aggregator:
    weighting = strategy.pop("weighting", "size")
    return Aggregator(from_mapping({"federation": {"strategy": strategy, "weighting": weighting}}).federation)


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_average_by_size(name: str) -> None:
    new = _aggregator(name=name).step(1, HERE, REPLIES)
    assert new["w"].tolist() == MEAN_W.tolist()
    assert new["b"].item() == MEAN_B
    assert new["w"].dtype == torch.float32


def test_average_equally() -> None:
    assert _aggregator(name="fedavg", weighting="equal").step(1, HERE, REPLIES)["w"].tolist() == [2.0, 0.0]


def test_momentum_over_two_rounds() -> None:
    aggregator = _aggregator(name="fedavgm", server_lr=0.5, server_momentum=0.9)
    first = aggregator.step(1, HERE, REPLIES)
    gradient = np.array([1.0, 2.0]) - MEAN_W
    assert np.allclose(first["w"], np.array([1.0, 2.0]) - 0.5 * gradient, atol=1e-7)
    second = aggregator.step(2, first, REPLIES)
    velocity = 0.9 * gradient + (first["w"].double().numpy() - MEAN_W)
    assert np.allclose(second["w"], first["w"].double().numpy() - 0.5 * velocity, atol=1e-7)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_adaptive_first_step(name: str) -> None:
    new = _aggregator(name=name, server_lr=0.1, beta_1=0.9, beta_2=0.99, tau=0.01).step(1, HERE, REPLIES)
    delta = MEAN_W - np.array([1.0, 2.0])
    m, v = 0.1 * delta, 0.01 * delta**2
    rate = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2) if name == "fedadam" else 0.1  # Flower counts one round more
    assert np.allclose(new["w"], np.array([1.0, 2.0]) + rate * m / (np.sqrt(v) + 0.01), atol=1e-7)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_state_continues_where_it_stopped(name: str) -> None:
    whole, first, second = (_aggregator(name=name) for _ in range(3))
    after_one = whole.step(1, HERE, REPLIES)
    assert torch.equal(first.step(1, HERE, REPLIES)["w"], after_one["w"])
    second.load_state(first.state())
    assert first.state()
    expected, resumed = whole.step(2, after_one, REPLIES), second.step(2, after_one, REPLIES)
    assert all(torch.equal(expected[key], resumed[key]) for key in HERE)


def test_strategies_differ() -> None:
    names = ["fedavg", "fedavgm", "fedadam", "fedyogi"]
    new = {}
    for name in names:
        aggregator = _aggregator(name=name)
        new[name] = aggregator.step(2, aggregator.step(1, HERE, REPLIES), REPLIES)["w"]
    assert len({tuple(value.tolist()) for value in new.values()}) == len(names)


def test_long_updates_are_scaled_to_the_bound() -> None:
    new = _aggregator(name="fedavg", norm_bound=1.0).step(1, HERE, REPLIES[:1])
    step = np.array([new["w"][0] - 1.0, new["w"][1] - 2.0, new["b"] - 0.5])
    assert np.isclose(np.linalg.norm(step), 1.0, atol=1e-6)
    assert np.allclose(step, np.array([2.0, 0.0, -0.5]) / np.sqrt(4.25), atol=1e-6)


def test_sum_is_in_float64() -> None:
    tiny = 2.0**-30
    replies = [TrainReply({"w": torch.tensor([value])}, {"num-examples": 1.0}) for value in (1.0, tiny, -1.0, tiny)]
    new = _aggregator(name="fedavg").step(1, {"w": torch.zeros(1)}, replies)
    assert new["w"].item() == tiny / 2


def test_unknown_name_and_no_reply() -> None:
    with pytest.raises(UserError, match=r"unknown strategies 'fedavgg'.*fedavg"):
        _aggregator(name="fedavgg")
    with pytest.raises(ValueError, match="without replies"):
        _aggregator(name="fedavg").step(1, HERE, [])


def test_replies_are_folded_in_any_order_and_not_held() -> None:
    """The mean has the bits of the exact one, whoever answers first; what is held of a reply has no weights."""
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((80, 50)) * 10.0 ** rng.integers(-9, 3, (80, 50))).astype(np.float32)
    sizes = rng.integers(1, 1000, 80)
    replies = [
        TrainReply({"w": torch.from_numpy(row)}, {"num-examples": float(size)}) for row, size in zip(values, sizes, strict=True)
    ]
    exact = [
        float(sum(Fraction(float(v)) * int(s) for v, s in zip(column, sizes, strict=True)) / int(sizes.sum()))
        for column in values.T
    ]
    for order in (range(80), range(79, -1, -1), rng.permutation(80)):
        fold = _aggregator(name="fedavgm", server_lr=1.0, server_momentum=0.0).open({"w": torch.zeros(50)})
        left = [fold.take(replies[i]) for i in order]
        assert all(not one.weights for one in left)
        assert np.array_equal(fold.step(1, left)["w"], np.array(exact, dtype=np.float32))
        mean = RunningMean(50)
        for i in order:
            mean.add(values[i].astype(np.float64), float(sizes[i]))
        assert np.allclose(mean.mean(), exact, rtol=3e-16, atol=0)


def test_the_order_of_replies_leaves_the_bits_of_float64() -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((200, 500)).astype(np.float32).astype(np.float64)
    found = []
    for order in (np.arange(200), rng.permutation(200), rng.permutation(200)):
        mean = RunningMean(500)
        for i in order:
            mean.add(values[i], 1.0 + i % 7)
        found.append(mean.mean())
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_a_strategy_that_wants_every_reply_keeps_them() -> None:
    fold = _aggregator(name="fedmedian").open(HERE)
    assert all(fold.take(reply) is reply for reply in REPLIES)


def test_a_config_refuses_beside_a_sum_what_wants_every_reply() -> None:
    assert set(NEEDS_EVERY_REPLY) == set(ROBUST)
