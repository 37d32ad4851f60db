"""Weights side by side in one piece of memory are the weights that they were, at addresses that torch would choose."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from mpssl_fed.errors import UserError
from mpssl_fed.models import Architecture, Block, Classifier, Layout, build_classifier

ODD = {"b": torch.arange(5.0), "a": torch.ones(3, 7), "none": torch.zeros(0)}


def _model(norm: str = "group", gathered: bool = True) -> Classifier:
    model = build_classifier(Architecture("small-cnn", ("a", "b"), 1, 32, norm), seed=3)
    if gathered:
        model.gather()
    return model


def test_a_block_is_its_tensors() -> None:
    block = Block.of(ODD)
    assert all(block[key].equal(value) for key, value in ODD.items())
    assert block.layout == Layout.of(ODD)
    assert Block.of(block) is block
    vector = block.layout.vector(block)
    assert (vector == block.layout.vector(ODD)).all()
    assert all((part == ODD[key].numpy()).all() for key, part in block.layout.views(vector).items())
    assert all(part.data_ptr() % 64 == block.flat.data_ptr() % 64 for part in block.values() if part.numel())


def test_it_goes_to_another_process_as_one_array() -> None:
    there = pickle.loads(pickle.dumps(Block.of(ODD)))
    assert isinstance(there, Block)
    assert all(there[key].equal(value) for key, value in ODD.items())
    assert there["a"].untyped_storage().data_ptr() == there.flat.untyped_storage().data_ptr()


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_gathered_classifier_trains_to_the_same_bits(norm: str) -> None:
    x, y = torch.linspace(-1, 1, 8 * 32 * 32).view(8, 1, 32, 32), torch.arange(8) % 2
    ends = []
    for model in (_model(norm), _model(norm, gathered=False)):
        start = model.shared_state()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
        end = model.shared_state()
        model.load_shared(start)
        assert all(value.equal(start[key]) for key, value in model.shared_state().items())
        assert not any(end[key].equal(start[key]) for key in ("head.weight", "body.stem.weight"))
        ends.append(end)
    assert isinstance(ends[0], Block)
    assert ends[0].keys() == ends[1].keys()
    assert all(ends[0][key].equal(ends[1][key]) for key in ends[1])


def test_a_copy_has_its_own_memory() -> None:
    model = _model()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.bias.fill_(7.0)
    assert other.shared_state()["head.bias"].eq(7.0).all()
    assert not model.shared_state()["head.bias"].eq(7.0).any()


def test_of_another_width_it_is_read_one_by_one() -> None:
    model = _model().double()
    assert not isinstance(model.shared_state(), Block)
    model.gather()
    assert not isinstance(model.shared_state(), Block)
    model.load_shared(_model().shared_state())


def test_weights_of_another_network_are_refused() -> None:
    other = build_classifier(Architecture("small-cnn", ("a", "b", "c"), 1, 32))
    other.gather()
    with pytest.raises(UserError, match="head"):
        _model().load_shared(other.shared_state())
