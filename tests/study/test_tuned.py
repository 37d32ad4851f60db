"""Settings against the table that chose them: what the shipped studies say, and every way in which a study may depart."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mpssl_fed.cli import build
from mpssl_fed.config import config_folder
from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.grid import load_study
from mpssl_fed.study.schema import Tuned
from mpssl_fed.study.tuned import chosen, departures, explained, idle_reasons, settings_words, table_of
from tests.study.runs import plan_of, write_study

SHIPPED = sorted(file.stem for file in (config_folder() / "studies").glob("*.yaml"))
COLUMNS = [
    "config_sha256",
    "method_version",
    "method.name",
    "optim.lr",
    "method.lambda",
    "method.augment",
    "seed",
    "status",
    "accuracy",
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_takes_what_tuning_chose_or_says_why_not(name: str) -> None:
    plan = load_study(name)
    tuned = plan.study.tuned
    if tuned is None:
        assert plan.study.untuned, "say under 'tuned' or 'untuned' where the settings come from"
        return
    table = table_of(tuned)
    assert table is not None
    assert [explained(one, tuned) for one in departures(plan, table) if one.why is None] == []
    assert idle_reasons(plan, table) == []


def test_the_shipped_table_is_of_validation_images_and_of_another_seed() -> None:
    """What chose the settings must not have seen the images or seeds that the studies measure on."""
    tuning = load_study("tuning")
    assert {cell.config.data.held_out for cell in tuning.cells} == {"validation"}
    for name in SHIPPED:
        study = load_study(name).study
        if study.tuned is not None:
            assert study.tuned.table == "benchmarks/results/tuning.csv"
            assert not set(study.all_seeds) & set(tuning.study.all_seeds)
    with open(config_folder().parent / "benchmarks/results/tuning.csv", newline="") as file:
        rows = {row["config_sha256"] for row in csv.DictReader(file)}
    assert rows == {cell.sha256 for cell in load_study(config_folder().parent / "benchmarks/results/tuning.yaml").cells}


def write_table(folder: Path, lines: list[tuple[Any, ...]]) -> Path:
    """Write a table of (method, lr, lambda, augment, accuracy)."""
    file = folder / "table.csv"
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows(["0" * 64, 1, *line[:4], 100, "finished", line[4]] for line in lines)
    return file


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two methods; vic-gssl's best lambda is 3 on average, 1 with weak augmentation alone."""
    lines: list[tuple[Any, ...]] = [
        ("base", lr, 0, augment, 0.5 + lr) for lr in (0.01, 0.03) for augment in ("weak", "half-strong")
    ]
    lines += [("vic-gssl", 0.01, weight, "weak", accuracy) for weight, accuracy in ((1, 0.80), (3, 0.79), (10, 0.5))]
    lines += [("vic-gssl", 0.01, weight, "half-strong", accuracy) for weight, accuracy in ((1, 0.60), (3, 0.69), (10, 0.5))]
    return write_table(tmp_path, lines)


def fields(table: Path, lr: float = 0.03, weight: float = 3, **tuned: Any) -> dict[str, Any]:
    """Return a study of both methods with these settings."""
    variants = {
        "base": {"method.name": "base", "optim.lr": lr},
        "vic": {"method.name": "vic-gssl", "method.lambda": weight, "optim.lr": 0.01},
    }
    return {
        "variants": variants,
        "grid": {"method.augment": ["weak", "half-strong"]},
        "seeds": 1,
        "tuned": {"table": str(table), **tuned},
    }


def test_the_best_is_of_means_over_all_other_columns(tmp_path: Path, table: Path) -> None:
    tuned = Tuned(table=str(table))
    assert chosen(tuned, table, "accuracy") == {("base",): (("0.03", "0"),), ("vic-gssl",): (("0.01", "3"),)}
    tied = write_table(tmp_path, [("base", lr, 0, "weak", 0.5) for lr in (0.01, 0.03)] + [("base", 0.1, 0, "weak", 0.4)])
    assert chosen(tuned, tied, "accuracy") == {("base",): (("0.01", "0"), ("0.03", "0"))}
    lucky = write_table(
        tmp_path, [("base", 0.01, 0, "weak", 0.5), ("base", 0.01, 0, "half-strong", 0.6), ("base", 0.03, 0, "half-strong", 0.6)]
    )
    assert chosen(tuned, lucky, "accuracy") == {("base",): (("0.01", "0"),)}  # the other's weak cell failed


def test_arms_that_tuning_did_not_choose_are_named(tmp_path: Path, table: Path) -> None:
    assert departures(plan_of(tmp_path, **fields(table)), table) == []
    plan = plan_of(tmp_path, **fields(table, weight=1))
    found = departures(plan, table)
    assert [(one.arm, one.own, one.chosen, one.why) for one in found] == [
        (f"vic · {augment}", ("0.01", "1"), (("0.01", "3"),), None) for augment in ("weak", "half-strong")
    ]
    assert plan.study.tuned is not None
    assert "method.lambda=1, where" in explained(found[0], plan.study.tuned)
    assert "No reason is given for vic · weak, vic · half-strong." in settings_words(plan)
    excused = fields(table, weight=1, unless=[{"arm": "vic", "why": "It is the value of an older study."}])
    plan = plan_of(tmp_path, **excused)
    assert {one.why for one in departures(plan, table)} == {"It is the value of an older study."}
    assert idle_reasons(plan, table) == []
    assert idle_reasons(plan_of(tmp_path, **(excused | {"variants": fields(table)["variants"]})), table) == [
        "It is the value of an older study."
    ]
    assert "but for 2 of 4 arms. It is the value of an older study." in settings_words(plan)


def test_a_dry_run_says_it(tmp_path: Path, table: Path) -> None:
    result = CliRunner().invoke(build(), ["study", str(write_study(tmp_path, **fields(table, lr=0.01))), "--dry-run"])
    assert result.exit_code == 0, result.exception
    assert f"base · weak: optim.lr=0.01 method.lambda=0, where {table} chose optim.lr=0.03 method.lambda=0" in result.output
    assert "gives no reason (tuned.unless)" in result.output


def test_a_table_that_is_elsewhere_is_said_to_be(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, **fields(Path("elsewhere/table.csv")))
    assert "the table is not here to be read" in settings_words(plan)
    assert settings_words(plan_of(tmp_path, grid={"method.name": ["base"]})) == ""


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"unless": [{"arm": "vic", "why": "no"}]}, "tuned.unless.0.why"),
    ({"unless": [{"arm": "vic"}]}, "tuned.unless.0.why"),
    ({"keys": ["optim.lr", "optim.betas"]}, "no column optim.betas"),
    ({"keys": ["optim.r"]}, "Did you mean 'optim.lr'?"),
    ({"keyz": ["optim.lr"]}, "Did you mean 'keys'?"),
]


@pytest.mark.parametrize(("tuned", "words"), MISTAKES)
def test_mistakes_are_refused_with_their_cure(tmp_path: Path, table: Path, tuned: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        departures(plan_of(tmp_path, **fields(table, **tuned)), table)


def test_a_table_of_another_method_version_is_said_to_be_one(tmp_path: Path, table: Path) -> None:
    """Settings chosen for an older method may not be the best of this one."""
    said = settings_words(plan_of(tmp_path, **fields(table)))
    assert f"(of method version 1; this study is of {METHOD_VERSION}), in every arm" in said
    assert "of method version" not in settings_words(plan_of(tmp_path, **fields(table), method_version=1))


def test_tuned_and_untuned_are_one_or_the_other(tmp_path: Path, table: Path) -> None:
    with pytest.raises(UserError, match="'tuned' and 'untuned' are both given"):
        plan_of(tmp_path, **fields(table), untuned="There is no table.")


def test_the_tuned_study_survives_its_own_yaml(tmp_path: Path, table: Path) -> None:
    plan = plan_of(tmp_path, **fields(table, weight=1, unless=[{"arm": {}, "why": "It is the value of an older study."}]))
    (tmp_path / "again.yaml").write_text(plan.to_yaml())
    assert load_study(tmp_path / "again.yaml") == plan
    assert json.dumps(load_study(tmp_path / "again.yaml").study.model_dump(mode="json"))
