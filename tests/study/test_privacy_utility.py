"""The shipped trade-off studies: the kept part is of the full grid, and every arm of it trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpssl_fed import simulate
from mpssl_fed.errors import UserError
from mpssl_fed.study.grid import Plan, load_study

SHRUNK = [
    "privacy.epsilon=[1]",
    "federation.sites=2",
    "federation.rounds=1",
    "federation.local_steps=2",
    "warm_start.steps=2",
    "warm_start.batch=4",
    "privacy.sample_rate=0.02",
    "method.batch=4",
    "method.lmo_batch=4",
    "data.test_limit=20",
]


@pytest.fixture(scope="module")
def full() -> Plan:
    return load_study("privacy-utility")


def test_the_kept_part_is_of_the_full_grid_so_that_its_table_continues_it(full: Plan) -> None:
    of_full = {cell.sha256 for cell in full.cells}
    for part in ("privacy-utility-mnist", "privacy-utility-fashion"):
        assert {cell.sha256 for cell in load_study(part).cells} <= of_full


def test_the_grid_holds_what_the_question_asks(full: Plan) -> None:
    configs = [cell.config for cell in full.cells]
    assert {c.privacy.epsilon for c in configs if c.privacy.on} == {0.5, 1, 2, 4, 8}
    assert {c.privacy.scope for c in configs} == {"off", "end-to-end", "labelled-step"}
    assert {c.method.name for c in configs} == {"base", "mp-ssl", "vic-gssl", "generator-only"}
    assert {c.model.name for c in configs} == {"small-cnn", "hog", "pixels"}
    assert {c.model.trainable for c in configs} == {"all", "norm", "head"}
    assert {c.data.name for c in configs} == {"mnist-5k", "fashion-mnist"}
    assert {c.seed for c in configs} == set(range(5))
    assert all(c.privacy.delta <= 1 / (10 * (c.privacy.public_size or 1)) for c in configs)


def test_no_arm_repeats_another_under_a_different_name(full: Plan) -> None:
    for cell in full.cells:
        frozen = cell.config.model.trainable == "head"
        assert not (frozen and cell.config.method.loss in ("scr", "vicreg"))
        assert cell.config.privacy.scope != "labelled-step" or cell.config.method.name == "mp-ssl"


@pytest.mark.slow
def test_every_arm_trains(tmp_path: Path) -> None:
    plan = load_study("privacy-utility", [*SHRUNK, "seeds=1"])
    for cell in plan.cells:
        folder = tmp_path / cell.id
        config = cell.config.model_copy(update={"output": cell.config.output.model_copy(update={"dir": str(folder)})})
        try:
            simulate(config)
        except UserError as error:
            if config.data.name == "fashion-mnist" and "not found" in str(error):
                continue  # its files are not on this machine
            raise
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["rejected"] == {}, cell.label
        assert last["sites_answered"] == (2 if config.private_rounds else 0), cell.label
