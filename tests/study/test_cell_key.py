"""The key of a cell: stable when the schema grows, different whenever a result may differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.config import METHODS, Config, from_mapping
from mpssl_fed.config.learning import BUNDLES, METHOD_DEFAULTS
from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.cell_key import cell_key, differing
from mpssl_fed.study.folder import table_rows
from mpssl_fed.study.grid import load_study
from mpssl_fed.study.run import run_study

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
"""Its tables are named like the shipped studies that they hold; the study as it was then stands beside each."""


def config_of(**fields: Any) -> Config:
    """Return the config of these keys."""
    return from_mapping(fields)


def test_the_default_differs_in_nothing() -> None:
    assert differing(Config()) == {}


def test_only_what_is_set_is_in_the_key() -> None:
    config = config_of(seed=3, method={"name": "vic-gssl", "vicreg": {"variance": 2.0}}, data={"label_fraction": 0.5})
    assert differing(config) == {
        "seed": 3,
        "method": {"name": "vic-gssl", "source": "random", "loss": "vicreg", "vicreg": {"variance": 2.0}},
        "data": {"labels_per_class": None, "label_fraction": 0.5},
    }


def test_a_default_spelt_out_is_the_same_cell() -> None:
    short = config_of(method={"name": "base"}, data={"partition": {"name": "dirichlet"}})
    spelt = config_of(
        method={"name": "base", "source": "none", "loss": "none", "lambda": 0.0, "lmo_every": 5},
        data={"partition": {"name": "dirichlet", "alpha": 0.3, "min_per_site": 1}, "labels_per_class": 10},
        output={"dir": "elsewhere"},
    )
    assert differing(short) == {
        "method": {"name": "base", "source": "none", "loss": "none"},
        "data": {"partition": {"name": "dirichlet"}},
    }
    assert cell_key(short, 1) == cell_key(spelt, 1)


def test_a_new_key_with_a_default_leaves_the_key_and_changes_the_protocol_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema gains a key: the resolved config, which travels in messages, has another hash; the cell is the same one."""
    config = config_of(method={"name": "base"}, optim={"lr": 0.01})
    key, sha256 = cell_key(config, 1), config.sha256()
    dump = Config.dump

    def grown(self: Config) -> dict[str, Any]:
        fields = dump(self)
        fields["optim"]["gradient_clip"] = None
        return fields

    monkeypatch.setattr(Config, "dump", grown)
    monkeypatch.setattr("mpssl_fed.study.cell_key._plain", lambda: json.dumps(Config().dump()))
    assert config.sha256() != sha256
    assert cell_key(config, 1) == key


def test_a_kept_table_is_read_whatever_becomes_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method's version is raised and a named method's defaults are revised: rows are known by their settings and seed still,
    and cells that are not there are not run by the other version."""
    table = RESULTS / "latents.csv"
    before = table_rows(load_study(table.with_suffix(".yaml")), table)
    monkeypatch.setattr("mpssl_fed.method.METHOD_VERSION", METHOD_VERSION + 1)
    monkeypatch.setattr("mpssl_fed.study.run.METHOD_VERSION", METHOD_VERSION + 1)
    monkeypatch.setitem(METHOD_DEFAULTS, "mp-ssl+", METHOD_DEFAULTS["mp-ssl+"] | {"gap": {"weight": 0.5}})
    plan = load_study(table.with_suffix(".yaml"))
    after = table_rows(plan, table)
    assert after.keys() != before.keys()
    assert sorted(row.accuracy or 0 for row in after.values()) == sorted(row.accuracy or 0 for row in before.values())
    assert len(run_study(plan, tmp_path / "whole", 1, from_csv=table).finished) == len(before)
    table_of_some = tmp_path / "some.csv"
    table_of_some.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(UserError, match="its 3 missing cells cannot be run"):
        run_study(plan, tmp_path / "some", 1, from_csv=table_of_some)


def test_the_method_version_is_part_of_the_key() -> None:
    assert cell_key(Config(), 1) != cell_key(Config(), 2)


def test_what_a_method_brings_of_its_own_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Revising a named method's defaults names other cells, and leaves the cells of the other methods."""
    plus, set_back = config_of(method={"name": "mp-ssl+"}), config_of(method={"name": "mp-ssl+", "buffer": 4})
    assert differing(plus)["method"] == {"name": "mp-ssl+", "loss": "vicreg", "buffer": 30, "random_share": 0.5}
    assert differing(set_back)["method"]["buffer"] == 4
    others = [config_of(method={"name": name}) for name in METHODS if name != "mp-ssl+"]
    keys = [cell_key(config, 1) for config in others]
    key = cell_key(plus, 1)
    monkeypatch.setitem(METHOD_DEFAULTS, "mp-ssl+", {"buffer": 30, "gap": {"per_class": False}})
    revised = config_of(method={"name": "mp-ssl+", "gap": {"weight": 2.0}})
    assert differing(revised)["method"]["gap"] == {"weight": 2.0, "per_class": False}
    assert cell_key(config_of(method={"name": "mp-ssl+"}), 1) != key
    assert [cell_key(config, 1) for config in others] == keys


ONE_OF = st.sampled_from
METHOD = st.fixed_dictionaries(
    {"name": ONE_OF([name for name in METHODS if name not in BUNDLES])},
    optional={"buffer": ONE_OF([4, 30]), "lambda": ONE_OF([0.0, 1.0, 5.0]), "augment": ONE_OF(["weak", "half-strong"])},
)
SPLITS = [{"name": "iid"}, {"name": "dirichlet", "alpha": 0.3}, {"name": "dirichlet", "alpha": 1}, {"name": "quantity"}]
STRATEGIES = [{"name": "fedavg"}, {"name": "fedprox"}, {"name": "fedprox", "proximal_mu": 0.1}]
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 3),
        "method": METHOD,
        "data": st.fixed_dictionaries({"partition": ONE_OF(SPLITS)}, optional={"labels_per_class": ONE_OF([1, 10])}),
        "federation": st.fixed_dictionaries({"strategy": ONE_OF(STRATEGIES)}, optional={"sites": ONE_OF([1, 4])}),
        "warm_start": st.fixed_dictionaries({}, optional={"part": ONE_OF(["none", "body"])}),
    },
)


@settings(max_examples=60, deadline=None)
@given(CHANGES, CHANGES)
def test_keys_agree_exactly_where_resolved_configs_do(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = from_mapping(one), from_mapping(other)
    assert (cell_key(first, 1) == cell_key(second, 1)) == (first.canonical_json() == second.canonical_json())


@settings(max_examples=30, deadline=None)
@given(CHANGES)
def test_what_differs_rebuilds_the_config(fields: dict[str, Any]) -> None:
    config = from_mapping(fields)
    assert from_mapping(differing(config)) == config
