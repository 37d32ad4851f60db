"""Arms that choose the generator's classes: by name, against names, by closed form; and how well a choice hits."""

from __future__ import annotations

import math

import pytest
import torch

from mpssl_fed.errors import UserError
from mpssl_fed.method.selection import (
    anti_oracle_rows,
    closed_form_logits,
    oracle_rows,
    relevance,
    sampled,
    selection_numbers,
)
from mpssl_fed.method.sources import Chosen
from tests.method.test_lmo_works import CLASSES, planted
from tests.method.test_step import config, learner, weights

GENERATOR, TASK = ("a", "b", "c", "d"), ("b", "x", "d")


def test_equal_names_are_relevant_unless_something_else_is_said() -> None:
    found = relevance(GENERATOR, TASK, {})
    assert found.nonzero().tolist() == [[0, 1], [2, 3]]
    assert relevance(GENERATOR, TASK, {"a": "x", "c": "*"}).nonzero().tolist() == [[0, 2], [1, 0], [1, 2], [2, 2]]
    with pytest.raises(UserError, match="the generator has no class 'e'"):
        relevance(GENERATOR, TASK, {"e": "b"})
    with pytest.raises(UserError, match="the task has no class 'y'"):
        relevance(GENERATOR, TASK, {"a": "y"})


def test_oracle_and_anti_oracle_by_hand() -> None:
    relevant = relevance(GENERATOR, TASK, {})
    assert oracle_rows(relevant).tolist() == [[0, 1, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 0, 1]]  # x has none of its own
    assert anti_oracle_rows(relevant).tolist() == [[0.5, 0, 0.5, 0]] * 3
    with pytest.raises(UserError, match="no class of the generator has the name of a task class"):
        oracle_rows(torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(UserError, match="every class of the generator is relevant"):
        anti_oracle_rows(torch.ones(2, 3, dtype=torch.bool))


def test_numbers_of_a_choice_by_hand() -> None:
    relevant = relevance(GENERATOR, TASK, {})
    rows = torch.tensor([[0.25] * 4, [0, 0, 1, 0], [0, 0.5, 0, 0.5]], dtype=torch.float64)
    found = selection_numbers(rows, torch.tensor([2.0, 0.0, 2.0]), relevant)  # the site has no x
    assert found["converter_mass"] == pytest.approx((0.25 + 0.5) / 2)
    assert found["converter_mass_any"] == pytest.approx((0.5 + 1) / 2)
    assert found["converter_perplexity"] == pytest.approx(math.sqrt(4 * 2))
    assert selection_numbers(rows, torch.ones(3), torch.zeros_like(relevant)).keys() == {"converter_perplexity"}


def test_classes_are_drawn_as_often_as_their_rows_say() -> None:
    rows = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    drawn = sampled(rows, torch.tensor([0] * 3000 + [1] * 50), torch.Generator().manual_seed(0))
    assert set(drawn[3000:].tolist()) == {2}
    counts = drawn[:3000].bincount(minlength=3)
    assert counts[2] == 0
    assert abs(int(counts[0]) - 2100) < 4 * math.sqrt(3000 * 0.7 * 0.3)


def test_the_closed_form_is_softmax_of_minus_squared_distance() -> None:
    distances = torch.tensor([[4.0, 1.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(closed_form_logits(distances).softmax(1), (-distances).softmax(1))
    assert float(closed_form_logits(distances + 1e6).max()) == 0


def test_the_closed_form_finds_the_planted_classes_and_is_a_start_for_lmo() -> None:
    arm = planted(0, source="closed-form", name=None, loss="scr")
    start = planted(0, latent={"init": "closed-form"})
    for one in (arm, start):
        one._begin(1)
        assert one.source is not None
        assert one.source.numbers()["converter_mass"] > 3 / CLASSES


@pytest.mark.parametrize("source", ["oracle", "anti-oracle", "closed-form"])
def test_an_arm_trains_repeats_and_resumes(source: str) -> None:
    more = {"relevant": {name: name for name in "01234"}} if source == "anti-oracle" else {}
    cfg = config(None, method={"source": source, "loss": "scr", "latent": {"probes": 2}, **more})
    whole, resumed = learner(cfg), learner(cfg)
    assert isinstance(whole.source, Chosen)
    whole.train(1)
    resumed.classifier.load_state_dict(whole.classifier.state_dict())
    resumed.load_state(whole.state())
    whole.train(2)
    resumed.train(2)
    assert torch.equal(weights(whole), weights(resumed))
    told = whole.source.numbers()
    assert {"oracle": 1.0, "anti-oracle": 0.0}.get(source, told["converter_mass"]) == pytest.approx(told["converter_mass"])
