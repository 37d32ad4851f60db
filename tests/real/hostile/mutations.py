"""Seeded changes of an honest message at a random place: keys, values, texts, bytes, arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mpssl_fed.config import Config, from_json, from_mapping
from mpssl_fed.config.leaves import leaves
from mpssl_fed.deployment import wire
from mpssl_fed.federation.server.deployed_run import for_sites
from tests.federation.hostile_requests import written
from tests.real.hostile.crafted import pooled
from tests.real.hostile.target import PIXELS, body, config_of, start

Rng = np.random.Generator
Mutation = tuple[str, bytes, Callable[[], Config]]
"""What it is, the message, and the config that a site reads in it, where it is taken."""

KEYS = [leaf.key for leaf in leaves(Config)]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 5, -1, 7, 2**31 - 1, 2**31, 2**63 - 1, 2**64, 10**30, 0.0, -0.0, 0.5, 1.0, 1e-3, 1e-5),
    *(1e-45, 5e-324, 1e-30, 1e3, 1e19, 1e30, 1.7e308, -1e308, "NaN", "1e999", "", "0", "1", "off", "base", "mp-ssl"),
    *("small-cnn", "hog", "sgd", "null", "../x", "a:b", "x\ny", "\x1b[2J", "\u202e", "\ud800"),
    *([], [1], [0.5, 0.9], [1e308, 1e308], ["a", "b"], {}, {"x": 1}, {"a": {"b": []}}),
]
NUMBERS = [
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1e-38,
    1e-20,
    1e-3,
    1.0,
    -1.0,
    24.9,
    25.0,
    25.1,
    999.0,
    1000.0,
    1000.1,
    1e19,
    3.4e38,
    np.nan,
    np.inf,
]
BOUNDED = {"model.name": ("pixels", "hog"), "federation.local_steps": (1, 2), "federation.rounds": (1, 2)}
"""Keys whose honest values vary as well."""


def mutations(rng: Rng, count: int, images: np.ndarray) -> Iterator[Mutation]:
    """Yield ``count`` messages; images: the site's, which some of the weights are made of."""
    kinds = (_keys, _keys, _keys, _weights, _weights, _header, _bytes)
    for number in range(count):
        kind = kinds[int(rng.integers(len(kinds)))]
        yield kind(rng, f"m{number}", images)


def _honest(rng: Rng) -> tuple[str, wire.Arrays]:
    changes = {key: values[int(rng.integers(len(values)))] for key, values in BOUNDED.items()}
    return config_of(changes)[1], start({"model.name": changes["model.name"]})


def _keys(rng: Rng, run: str, _images: np.ndarray) -> Mutation:
    """Set one to three keys to whatever it is."""
    changes: dict[str, Any] = {}
    for _ in range(int(rng.integers(1, 4))):
        changes[KEYS[int(rng.integers(len(KEYS)))]] = VALUES[int(rng.integers(len(VALUES)))]
    text = _written(changes)
    return f"{run}: {changes}", body(text, start({}), run), lambda: from_json(text)


def _written(changes: dict[str, Any]) -> str:
    fields = for_sites(from_mapping(PIXELS)).dump()
    try:
        return written(fields, changes)
    except AttributeError:  # a key below what another change made a value
        return written(fields, dict(list(changes.items())[:1]))


def _weights(rng: Rng, run: str, images: np.ndarray) -> Mutation:
    """Set some entries of an array to numbers at the ends of what floats hold, or rows to images."""
    text, arrays = _honest(rng)
    key = sorted(arrays)[int(rng.integers(len(arrays)))]
    changed = arrays[key].copy()
    places = rng.random(changed.shape) < rng.random() ** 3
    changed[places] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    rows = pooled(images)
    if key == "head.weight" and changed.shape[1] == rows.shape[1] and rng.random() < 0.5:
        changed[int(rng.integers(len(changed)))] = rows[int(rng.integers(len(rows)))] * 10 ** rng.uniform(-30, 2.9)
    return f"{run}: {key}", body(text, arrays | {key: changed}, run), lambda: from_json(text)


def _header(rng: Rng, run: str, _images: np.ndarray) -> Mutation:
    """Set a field of the header to whatever it is."""
    text, arrays = _honest(rng)
    name = ("protocol", "run_id", "round", "config", "sha256", "more")[int(rng.integers(6))]
    value = VALUES[int(rng.integers(len(VALUES)))]
    header = json.loads(json.dumps({name: value}).replace("Infinity", "1e999"))
    return f"{run}: {name}={value!r}", body(text, arrays, run, **header), lambda: from_json(text)


def _bytes(rng: Rng, run: str, _images: np.ndarray) -> Mutation:
    """Change, cut or insert bytes; most of them where the frame and the header are."""
    text, arrays = _honest(rng)
    good = bytearray(body(text, arrays, run))
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(good) if rng.random() < 0.3 else min(6000, len(good))))
        way = int(rng.integers(4))
        if way == 0:
            good[place] = int(rng.integers(256))
        elif way == 1:
            del good[place : place + int(rng.integers(1, 40))]
        elif way == 2:
            good[place:place] = rng.bytes(int(rng.integers(1, 40)))
        else:
            good[place : place + 1] = b'{}[]",:0e'[int(rng.integers(9)) :][:1]
    return f"{run}: bytes", bytes(good), lambda: from_json(text)
