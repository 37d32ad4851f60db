"""What a caller has set in torch, Python and logging reaches into no run, and is there afterwards."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

import mpssl_fed
from mpssl_fed.caller import Shared, apart_from_caller
from mpssl_fed.generators.base import load_generator
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.trained import load_trained, predict

RUN = {
    "data": {"name": "mnist-5k", "labels_per_class": 1, "test_limit": 40},
    "method": {"name": "mp-ssl", "batch": 4, "lmo_batch": 4, "lmo_every": 1},
    "federation": {"sites": 1, "rounds": 1, "local_steps": 1},
    "warm_start": {"part": "body", "steps": 1},
    "runtime": {"device": "cpu"},
}


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def _device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def _all_at_once() -> Iterator[None]:
    with _default(torch.float64), _device("meta"), torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        yield


AROUND: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "all at once": _all_at_once,
    "a device for the block": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
}


def _run(folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    run = mpssl_fed.simulate(RUN, output=folder)
    image = folder.with_suffix(".png")
    Image.new("L", (20, 20), 77).save(image)
    (found,) = predict(load_trained(run.folder, "cpu"), [image])
    return run.classifier().state_dict(), found.probability


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], float]:
    return _run(tmp_path_factory.mktemp("caller") / "run")


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_run_is_the_same_whatever_torch_is_set_to(
    around: Callable[[], AbstractContextManager[object]], undisturbed: tuple[dict[str, torch.Tensor], float], tmp_path: Path
) -> None:
    with around():
        weights, probability = _run(tmp_path / "run")
    assert {(str(value.dtype), str(value.device), value.is_inference()) for value in weights.values()} <= {
        ("torch.float32", "cpu", False)
    }
    assert all(torch.equal(weights[key], value) for key, value in undisturbed[0].items())
    assert probability == undisturbed[1]


def test_what_was_set_is_there_afterwards(tmp_path: Path) -> None:
    threads, handlers = torch.get_num_threads(), list(logging.getLogger().handlers)
    torch.set_num_threads(2)
    try:
        with _default(torch.float64), torch.no_grad():
            torch.manual_seed(11)
            before = torch.get_rng_state()
            mpssl_fed.simulate(RUN, output=tmp_path / "run")
            assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == (torch.float64, False, 2)
            assert torch.equal(torch.get_rng_state(), before)
            with pytest.raises(mpssl_fed.api.UserError):
                mpssl_fed.simulate(RUN, "data.partition.name=dirichlet", "federation.sites=5000", output=tmp_path / "refused")
            assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float64, 2)
    finally:
        torch.set_num_threads(threads)
    assert logging.getLogger().handlers == handlers


def test_a_package_that_sets_up_logging_leaves_the_callers_alone() -> None:
    """As Opacus does when the first private run imports it; the caller's own ``basicConfig`` would then do nothing."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with apart_from_caller():
        root.addHandler(logging.NullHandler())
        root.setLevel(logging.DEBUG)
    assert (root.handlers, root.level) == (handlers, level)


def test_loading_a_generator_draws_nothing_of_the_callers() -> None:
    before = torch.get_rng_state()
    load_generator("glyphs-digits")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_last_of_several_threads_puts_back_what_the_first_found() -> None:
    value = {"level": "the caller's"}

    @contextmanager
    def setting() -> Iterator[None]:
        before, value["level"] = value["level"], "ours"
        yield
        value["level"] = before

    shared, first_is_in, second_is_in = Shared(setting), threading.Event(), threading.Event()

    def first() -> None:
        with shared.held():
            first_is_in.set()
            second_is_in.wait(60)

    def second() -> None:
        first_is_in.wait(60)
        with shared.held():
            second_is_in.set()
            one.join()
            assert value["level"] == "ours"

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    other.start()
    other.join()
    assert value["level"] == "the caller's"


def test_threads_that_build_at_once_draw_their_own_weights() -> None:
    asked = Architecture("small-cnn", tuple("ab"), 1, 16)
    seeds = (1, 2, 3)
    alone = {seed: build_classifier(asked, seed=seed).state_dict() for seed in seeds}
    wrong: list[int] = []

    def right(seed: int) -> bool:
        built = build_classifier(asked, seed=seed).state_dict()
        return all(torch.equal(value, alone[seed][key]) for key, value in built.items())

    def build(seed: int) -> None:
        wrong.extend(seed for _ in range(15) if not right(seed))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=build, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
