"""YAML is read as it stands, or refused: no key twice, no value that is another one, nothing that refers to itself."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed import config as configs
from mpssl_fed.config.plain import MOST_VALUES, parse, plain, to_yaml
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.policy import load_policy
from mpssl_fed.study.grid import load_study


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"), ("no", "no"), ("y", "y"), ("true", True), ("False", False),
        ("2024-01-01", "2024-01-01"), ("2024-02-30", "2024-02-30"), ("12:30", "12:30"),
        ("007", "007"), ("1_000", "1_000"), ("0b_", "0b_"), ("0x1F", 31), ("1e-3", 0.001), ("1E5", 1e5), (".5", 0.5), ("-2", -2),
        ("~", None), ("null", None), ("", None), ("'null'", "null"), ('"1"', "1"), ("!!str 12", "12"), ("!!float 1", 1.0),
        ("=", "="), ("nul", "nul"),
    ],
)  # fmt: skip
def test_a_scalar_is_what_yaml_1_2_says_and_odd_numbers_stay_words(text: str, value: Any) -> None:
    found = parse(f"a: {text}", "here")["a"]
    assert found == value
    assert type(found) is type(value)
    assert parse(to_yaml({"a": value}), "here") == {"a": value}


def test_a_number_in_an_odd_form_is_one_where_a_key_wants_one() -> None:
    config = configs.from_mapping(parse("{federation: {rounds: 007}, data: {test_limit: 1_000}}", "here"))
    assert (config.federation.rounds, config.data.test_limit) == (7, 1000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is given a second time .first on line 1"),
        ("{a: 1, 'a': 2}", "key 'a' is given a second time"),
        ("x: {y: {z: 1, z: 1}}", "key 'z' is given a second time"),
        ("- {a: 1}\n- {b: 1, b: 2}", "line 2: key 'b'"),
        ("a: &m {x: 1}\nb: {<<: *m, <<: *m}", "key '<<' is given a second time"),
        ("1: a\n'1': b", "key '1' is given a second time"),
        ("a: &x {b: *x}", "an anchor that holds itself"),
        ("a: &x [1, *x]", "an anchor that holds itself"),
        ("a: &x {<<: *x}", "an anchor that holds itself"),
        ("a: {<<: 3}", "'<<' wants a mapping"),
        ("? [a]\n: 1", "a key must be a word"),
        ("? {a: 1}\n: 1", "a key must be a word"),
        ("a: !!python/object/apply:os.system [ls]", "the tag '.*' is not read here"),
        ("a: !!timestamp x", "the tag '.*timestamp' is not read here"),
        ("a: !!set {b, c}", "the tag '.*set' is not read here"),
        ("a: !!binary x", "the tag '.*binary' is not read here"),
        ("a: !!int x", "'x' is no int"),
        ("a: !!bool maybe", "'maybe' is no bool"),
        ("a: !mine x", "the tag '!mine' is not read here"),
        ("a: " + "9" * 5000, "is no int"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 levels"),
        ("a: " + "[" * 9000, "nested more than 50 levels|not valid YAML"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: *nowhere", "undefined alias"),
        ("a: \x07", "special characters"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_place_and_the_reason(text: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"here.*{said}") as error:
        parse(text, "here")
    assert len(str(error.value)) < 400


def test_anchors_that_multiply_are_cut_off() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UserError, match=f"more than {MOST_VALUES:,} values"):
        parse("\n".join(lines), "here")


def test_merge_keys_and_anchors_fill_in_what_is_not_said() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}\nd: {z: 3, <<: *b}\ne: *a"
    found = parse(text, "here")
    assert found["c"] == {"x": 1, "y": 1, "z": 3}
    assert found["d"] == {"y": 2, "z": 3}
    assert found["e"] == found["a"]
    assert found["e"] is not found["a"]
    assert found == yaml.safe_load(text)


@settings(max_examples=150, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0"), max_size=12)
    | st.sampled_from(["1e5", "0o7", "0x1", "1_0", "007", "null", "~", "yes", "2024-01-01", "12:30", "<<", "="])
    | st.sampled_from(["-", ".5", "1.", " #"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8,
))  # fmt: skip
def test_what_is_written_is_read_as_the_same_here_and_by_yaml_1_1(value: Any) -> None:
    text = to_yaml({"a": value})
    assert parse(text, "here") == {"a": value}
    assert yaml.safe_load(text) == {"a": value}


TWICE = {
    "config": "privacy: {epsilon: 2, public_size: 1000}\nprivacy: {noise: fast}\n",
    "study": "grid: {method.name: [base]}\nseeds: 1\nseeds: 2\n",
    "base": "seed: 1\nseed: 2\n",
    "policy": (configs.config_folder() / "policies" / "site.yaml").read_text() + "\nmax_epsilon: 400\n",
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_key_given_twice_is_refused_in_every_file(kind: str, tmp_path: Path) -> None:
    file, study = tmp_path / "twice.yaml", tmp_path / "study.yaml"
    file.write_text(TWICE[kind])
    study.write_text(f"base: {file}\ngrid: {{method.name: [base]}}\n")
    read: dict[str, Any] = {"config": configs.load, "study": load_study, "base": lambda _: load_study(study), "policy": load_policy}
    with pytest.raises(UserError, match=rf"^{file}, line \d+: key '.*' is given a second time"):
        read[kind](file)


def test_a_key_given_twice_is_refused_in_an_override() -> None:
    with pytest.raises(UserError, match=r"^override 'data.partition=.*': the value: key 'name' is given a second time"):
        configs.override({}, ["data.partition={name: iid, name: quantity}"])


def test_plain_takes_what_python_callers_have_and_refuses_the_rest(tmp_path: Path) -> None:
    given = {"output": {"dir": tmp_path}, "seed": np.int64(3), "optim": {"lr": np.float32(0.5), "betas": (0.1, 0.2)}}
    assert configs.from_mapping(given).seed == 3
    assert plain(given, "config")["optim"] == {"lr": 0.5, "betas": [0.1, 0.2]}
    cycle: dict[str, Any] = {}
    cycle["data"] = cycle
    for value, said in (
        ({"data": {"name": datetime.date(2024, 1, 1)}}, "data.name: a date cannot stand"),
        ({"data": {"root": "a\0b"}}, "data.root='a.*holds a NUL"),
        ({"method": {"options": {"x": float("nan")}}}, "method.options.x=nan: want a finite number"),
        ({"seed": 2**200}, "seed: a whole number of more than 128 bits"),
        ({"data": {"name": {"a"}}}, "a set cannot stand"),
        (cycle, "nested more than"),
    ):
        with pytest.raises(UserError, match=rf"^config: .*{said}"):
            configs.from_mapping(value)


def test_a_file_that_is_no_config_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (2**24 + 1))
    with pytest.raises(UserError, match="larger than 16 MiB"):
        configs.load(big)
    for path in (tmp_path, ".", "", "/"):
        with pytest.raises(UserError, match=r"config '.*': is a folder|no such file"):
            configs.load(path)
