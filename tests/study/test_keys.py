"""Config keys in a study file."""

from __future__ import annotations

import pytest

from mpssl_fed.config import Config
from mpssl_fed.config.keys import keys_below
from mpssl_fed.errors import UserError
from mpssl_fed.study.keys import check_key, get_key, set_key, short_names, show_value


def test_every_key_of_the_schema_but_the_forbidden_is_accepted() -> None:
    engine = ("federation.backend", "federation.workers")  # refused below
    keys = [key for key in keys_below(Config) if key.split(".")[0] not in ("seed", "output") and key not in engine]
    assert len(keys) > 80
    assert {"method.lambda", "data.partition", "federation.strategy.tau", "privacy.clip.meta"} <= set(keys)
    for key in keys:
        check_key(key, "test")


def test_options_of_a_plug_in_may_have_any_key() -> None:
    check_key("method.options.depth", "test")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("metod.name", "unknown config key 'metod.name'. Did you mean 'method.name'?"),
        ("method.nam", "Did you mean 'method.name'?"),
        ("method.name.x", "'x' lies below a value"),
        ("seed", "give the seeds under 'seeds'"),
        ("output.dir", "a study names the folder"),
        ("federation.backend", "both cells would be the same"),
        ("federation.workers", "both cells would be the same"),
    ],
)
def test_keys_that_do_not_exist_or_cannot_vary_are_refused(key: str, words: str) -> None:
    with pytest.raises(UserError, match=r"^here: ") as error:
        check_key(key, "here")
    assert words in str(error.value)


def test_set_then_get() -> None:
    fields: dict[str, object] = {"data": {"name": "mnist-5k"}}
    set_key(fields, "data.partition.alpha", 0.3)
    assert fields == {"data": {"name": "mnist-5k", "partition": {"alpha": 0.3}}}
    assert get_key(fields, "data.partition") == {"alpha": 0.3}
    assert get_key({"a": {"b": 1, "c": None, "options": {}}}, "a") == {"b": 1}


def test_short_names_are_short_and_distinct() -> None:
    keys = ["method.name", "method.augment", "data.name", "data.labels_per_class", "federation.anchor.weight"]
    assert list(short_names(keys).values()) == ["method", "augment", "data", "labels per class", "anchor.weight"]
    clash = short_names(["optim.lr", "warm_start.lr"])
    assert clash == {"optim.lr": "optim.lr", "warm_start.lr": "warm_start.lr"}


def test_values_as_shown() -> None:
    assert show_value({"name": "dirichlet", "alpha": 0.3}) == "dirichlet alpha=0.3"
    assert [show_value(value) for value in (0.1, 3, True, None, [1, 2], "x")] == ["0.1", "3", "yes", "none", "1, 2", "x"]
