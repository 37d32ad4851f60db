"""What a hostile site may answer to a train message, case by case: a name, what it does to an honest reply, the code it gets."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

HUGE = 1.7e308
KEY = "head.bias"
Spoil = Callable[[Message], Any]


def _metrics(changes: dict[str, Any], without: str = "") -> Spoil:
    def spoil(reply: Message) -> Message:
        metrics = {key: value for key, value in reply.content["metrics"].items() if key != without} | changes
        reply.content = RecordDict({"arrays": reply.content["arrays"], "metrics": MetricRecord(metrics)})
        return reply

    return spoil


def _arrays(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(reply: Message) -> Message:
        arrays = {key: np.array(array.numpy()) for key, array in reply.content["arrays"].items()}
        change(arrays)
        record = ArrayRecord({key: value if isinstance(value, Array) else Array(value) for key, value in arrays.items()})
        reply.content = RecordDict({"arrays": record, "metrics": reply.content["metrics"]})
        return reply

    return spoil


def _records(**records: Any) -> Spoil:
    def spoil(reply: Message) -> Message:
        mine = {"arrays": reply.content["arrays"], "metrics": reply.content["metrics"]} | records
        reply.content = RecordDict({key: value for key, value in mine.items() if value is not None})
        return reply

    return spoil


def _raw(change: Callable[[Array], bytes], **fields: Any) -> Spoil:
    """Return a spoil that sends other bytes, or other labels, for one array."""

    def replace(arrays: dict[str, Any]) -> None:
        honest = Array(arrays[KEY])
        labels = {"dtype": honest.dtype, "shape": honest.shape, "stype": honest.stype} | fields
        arrays[KEY] = Array(labels["dtype"], labels["shape"], labels["stype"], change(honest))

    return _arrays(replace)


def _error(code: int, reason: str) -> Spoil:
    return lambda reply: Message(Error(code, reason), reply_to=_asked(reply))


def _asked(reply: Message) -> Message:
    """Return a message that ``reply`` could be the answer to."""
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = reply.metadata.reply_to_message_id
    return asked


def _npy(text: str, version: bytes = b"\x01\x00", values: int = 10) -> bytes:
    header = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + bytes(4 * values)


def _npz(_honest: Array) -> bytes:
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w") as file:
        file.writestr("a.npy", "b")
    return blob.getvalue()


def _set(key: str, value: float) -> Spoil:
    return _arrays(lambda arrays: arrays.update({key: np.full_like(arrays[key], value)}))


LIE = _set("head.weight", 9e2)
"""Within every bound: a mean takes it, a robust strategy does not."""

NUMBERS = [
    *((("num-examples", value), "size") for value in (HUGE, 1e12, 1_000_001, 0, -1, -HUGE, 0.5, 1e-308, 5e-324, 2**63, 12.000001)),
    *((("num-examples", value), "non-finite") for value in (float("nan"), float("inf"), -float("inf"), 10**400, -(10**400))),
    *((("num-examples", value), "malformed") for value in ([1.0], [1, 2, 3], [])),
    *((("train_s", value), "number") for value in (HUGE, -1.0, -HUGE, 1e8, 2**63)),
    *((("train_s", value), "non-finite") for value in (float("nan"), float("inf"), 10**400)),
    (("train_s", [1.0, 2.0]), "malformed"),
    (("generate_s", HUGE), "number"),
    (("generate_s", -1e-9), "number"),
    (("serialise_s", HUGE), "number"),
    *((("generated", value), "number") for value in (HUGE, -1.0, 2**70)),
    *((("generated", value), "non-finite") for value in (float("nan"), float("inf"))),
    (("generated", [1]), "malformed"),
    *((("loss", value), "number") for value in (HUGE, -HUGE, 2**62)),
    *((("loss", value), "non-finite") for value in (float("nan"), -float("inf"), 10**400)),
    (("loss", [0.5]), "malformed"),
    (("gap", float("nan")), "non-finite"),
    (("unsupervised", 1e13), "number"),
    (("gap", -1e13), "number"),
    (("gap", float("inf")), "non-finite"),
]
ARRAYS = [
    ("NaN", _set(KEY, np.nan), "non-finite"),
    ("infinity", _set(KEY, -np.inf), "non-finite"),
    ("beyond any weight", _set(KEY, 1.0001e6), "too-large"),
    ("largest float32", _set("head.weight", 3.4e38), "too-large"),
    ("a key less", _arrays(lambda arrays: arrays.pop(KEY)), "misshapen"),
    ("a key more", _arrays(lambda arrays: arrays.update(latents=np.zeros(3, np.float32))), "misshapen"),
    ("a key that is a path", _arrays(lambda arrays: arrays.update({"../x": arrays.pop(KEY)})), "misshapen"),
    (
        "thousands of keys",
        _arrays(lambda arrays: arrays.update({str(i): np.zeros(1, np.float32) for i in range(5000)})),
        "misshapen",
    ),
    ("float64", _arrays(lambda arrays: arrays.update({KEY: arrays[KEY].astype(np.float64)})), "misshapen"),
    ("float16", _arrays(lambda arrays: arrays.update({KEY: arrays[KEY].astype(np.float16)})), "misshapen"),
    ("complex", _arrays(lambda arrays: arrays.update({KEY: arrays[KEY].astype(np.complex64)})), "misshapen"),
    ("integers", _arrays(lambda arrays: arrays.update({KEY: arrays[KEY].astype(np.int32)})), "misshapen"),
    ("text", _arrays(lambda arrays: arrays.update({KEY: np.array(["0.1"] * 10)})), "misshapen"),
    ("another shape", _arrays(lambda arrays: arrays.update({KEY: arrays[KEY][:-1]})), "misshapen"),
    ("turned", _arrays(lambda arrays: arrays.update({"head.weight": arrays["head.weight"].T.copy()})), "misshapen"),
    ("no dimension", _arrays(lambda arrays: arrays.update({KEY: np.zeros((), np.float32)})), "misshapen"),
    ("giant", _arrays(lambda arrays: arrays.update({KEY: np.zeros(25_000_000, np.float32)})), "misshapen"),
    ("label says a terabyte", _raw(lambda honest: honest.data, shape=(10**12,)), "misshapen"),
    ("label says less than nothing", _raw(lambda honest: honest.data, shape=(-10,)), "misshapen"),
    ("label says another type", _raw(lambda honest: honest.data, dtype="object"), "misshapen"),
    ("label says pickle", _raw(lambda honest: honest.data, stype="pickle"), "misshapen"),
    ("megabytes behind the header", _raw(lambda honest: honest.data + bytes(5_000_000)), "misshapen"),
    ("a byte more", _raw(lambda honest: honest.data + b"x"), "malformed"),
    ("cut", _raw(lambda honest: honest.data[:-1]), "malformed"),
    ("nothing", _raw(lambda _: b""), "malformed"),
    ("a word", _raw(lambda _: b"hello"), "malformed"),
    ("an archive", _raw(_npz), "malformed"),
    ("a pickle", _raw(lambda _: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94."), "malformed"),
    (
        "header of a terabyte",
        _raw(lambda _: _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }")),
        "malformed",
    ),
    ("header of objects", _raw(lambda _: _npy("{'descr': '|O', 'fortran_order': False, 'shape': (10,), }")), "malformed"),
    ("header of float64", _raw(lambda _: _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10,), }")), "malformed"),
    ("header of many brackets", _raw(lambda _: _npy("(" * 500)), "malformed"),
    ("header that is longer than the file", _raw(lambda _: b"\x93NUMPY\x01\x00\xff\xff{}"), "malformed"),
    ("header of version 9", _raw(lambda honest: honest.data[:6] + b"\x09\x00" + honest.data[8:]), "malformed"),
]
RECORDS = [
    ("nothing at all", _records(arrays=None, metrics=None), "malformed"),
    ("no numbers", _records(metrics=None), "malformed"),
    ("no weights", _records(arrays=None), "malformed"),
    ("no number in it", _records(metrics=MetricRecord()), "size"),
    ("no size", _metrics({}, without="num-examples"), "size"),
    ("thousands of numbers", _metrics({f"x{i}": 1.0 for i in range(5000)}), "malformed"),
    ("text for numbers", _records(metrics=ConfigRecord({"num-examples": "20"})), "malformed"),
    ("numbers for weights", _records(arrays=MetricRecord({KEY: [0.0] * 10})), "malformed"),
    ("a record more", _records(images=ArrayRecord({"x": Array(np.zeros(9, np.float32))})), "malformed"),
    ("a text more", _records(note=ConfigRecord({"note": "x" * 100_000})), "malformed"),
    ("an error of an unknown code", _error(10**9, "x" * 100_000), "unknown"),
    ("an error with a negative code", _error(-5, ""), "unknown"),
    ("an error of ours", _error(110, "an image: ..."), "budget"),
    ("something that is no message", lambda _: "hello", "app-raised"),
    ("nothing that is a message", lambda _: object(), "app-raised"),
]
CASES: list[tuple[str, Spoil, str]] = [
    *((f"{key}={str(value)[:20]}", _metrics({key: value}), code) for (key, value), code in NUMBERS),
    *ARRAYS,
    *RECORDS,
]
