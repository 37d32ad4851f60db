from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpssl_fed.privacy.egress import ArraySpec, NumberSpec, WordSpec, allow, like

WEIGHT = ArraySpec((2, 3))
LISTED = {
    "body.weight": WEIGHT,
    "examples": NumberSpec(0, 1e6, whole=True),
    "seconds": NumberSpec(0, 1e5),
    "code": WordSpec(frozenset({"ok"})),
}
GOOD: dict[str, Any] = {"body.weight": np.ones((2, 3), np.float32), "examples": 100, "seconds": 1.5, "code": "ok"}


def test_what_is_listed_passes_unchanged() -> None:
    passed = allow(GOOD, LISTED)
    assert passed.complete
    assert passed.dropped == {}
    assert passed.record.keys() == GOOD.keys()
    np.testing.assert_array_equal(passed.record["body.weight"], GOOD["body.weight"])


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("body.weight", np.ones((3, 2), np.float32), "shape"),
        ("body.weight", np.ones((2, 3), np.float64), "dtype"),
        ("body.weight", np.ones((2, 3), np.int64), "dtype"),
        ("body.weight", np.full((2, 3), np.nan, np.float32), "non-finite"),
        ("body.weight", np.full((2, 3), np.inf, np.float32), "non-finite"),
        ("body.weight", [[1.0] * 3] * 2, "type"),
        ("body.weight", np.ma.masked_array(np.ones((2, 3), np.float32)), "type"),
        ("body.weight", "weights", "type"),
        ("examples", 12.5, "type"),
        ("examples", True, "type"),
        ("examples", -1, "range"),
        pytest.param("examples", 10**400, "range", id="huge"),
        ("seconds", math.nan, "non-finite"),
        ("seconds", 1e6, "range"),
        ("seconds", np.float64(1.0), "type"),
        ("code", "patient 17 has a tumour", "word"),
        ("code", b"ok", "type"),
    ],
)
def test_a_listed_key_with_the_wrong_value_is_dropped_and_missed(key: str, value: Any, reason: str) -> None:
    passed = allow({**GOOD, key: value}, LISTED)
    assert key not in passed.record
    assert passed.dropped == {reason: 1}
    assert passed.missing == (key,)
    assert not passed.complete


def test_counters_and_integer_buffers_of_batchnorm_do_not_leave() -> None:
    record = {**GOOD, "bn.num_batches_tracked": np.array(100), "bn.running_mean": np.zeros(3, np.float32), "latents": np.zeros(4)}
    passed = allow(record, LISTED)
    assert passed.dropped == {"unlisted": 3}
    assert passed.complete
    assert not any(key.startswith("bn") for key in passed.record)


def test_an_unlisted_value_is_never_looked_at() -> None:
    class Trap:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    assert allow({**GOOD, "trap": Trap()}, LISTED).dropped == {"unlisted": 1}


def test_large_entries_and_large_records_are_dropped() -> None:
    bounded = {"a": ArraySpec((2,), largest=1.0), "b": ArraySpec((2,))}
    record = {"a": np.array([0.0, -2.0], np.float32), "b": np.zeros(2, np.float32)}
    assert allow(record, bounded).dropped == {"range": 1}
    record["a"][:] = 0
    assert allow(record, bounded, max_bytes=15).dropped == {"size": 1}
    assert allow(record, bounded, max_bytes=16).complete


def test_an_array_leaves_without_the_buffer_it_was_cut_from() -> None:
    private = np.arange(100, dtype=np.float32)
    sent = allow({"a": private[3:5]}, {"a": ArraySpec((2,))}).record["a"]
    assert sent.base is None
    assert sent.flags.owndata
    private[3] = -1
    assert sent[0] == 3


def test_specs_come_from_the_model() -> None:
    specs = like({"w": np.zeros((2, 3), np.float32), "n": np.zeros((), np.int64)})
    assert specs == {"w": ArraySpec((2, 3)), "n": ArraySpec((), "int64")}
    assert allow({"w": np.zeros((2, 3), np.float32), "n": np.array(3)}, specs).complete


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text("ok ", max_size=3),
    st.binary(max_size=2),
    st.lists(st.integers(), max_size=2),
)


@given(st.dictionaries(st.sampled_from([*LISTED, "x", "y"]), values))
def test_nothing_but_listed_keys_with_fitting_values_ever_passes(record: dict[str, Any]) -> None:
    passed = allow(record, LISTED)
    assert set(passed.record) <= set(LISTED)
    assert all(LISTED[key].fault(value) is None for key, value in passed.record.items())
    assert len(passed.record) + sum(passed.dropped.values()) == len(record)
    assert set(passed.missing) == set(LISTED) - set(passed.record)
