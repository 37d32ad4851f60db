"""Messages that no site takes, as tables: bytes of HTTP, frames, arrays, fields of the header, texts of the config."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mpssl_fed.deployment import wire
from tests.real.hostile.target import framed, parted

DEEP = "[" * 100_000
POST = b"POST /v1/train HTTP/1.1\r\n"
Bytes = Callable[[bytes], bytes]


def _sent(headers: bytes, content: Bytes = lambda good: good) -> Bytes:
    return lambda good: POST + headers + b"\r\n" + content(good)


def _sized(headers: bytes, content: Bytes = lambda good: good) -> Bytes:
    return lambda good: POST + headers + b"Content-Length: %d\r\n\r\n" % len(content(good)) + content(good)


HTTP: dict[str, tuple[Bytes, int, str]] = {
    "nothing": (lambda _: b"", 0, "cut off"),
    "half a line": (lambda _: b"POST /v1/tr", 409, "malformed"),
    "noise": (lambda _: bytes(range(128, 228)) + b"\r\n\r\n", 409, "malformed"),
    "HTTP 2": (lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 409, "malformed"),
    "HTTP 0.9 for the card": (lambda _: b"GET /v1/card\r\n\r\n", 200, ""),
    "no such method": (lambda _: b"<script> /v1/card HTTP/1.1\r\n\r\n", 501, "malformed"),
    "PUT": (lambda _: b"PUT /v1/train HTTP/1.1\r\n\r\n", 501, "malformed"),
    "HEAD": (lambda _: b"HEAD /v1/status HTTP/1.1\r\n\r\n", 501, "malformed"),
    "CONNECT": (lambda _: b"CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n", 501, "malformed"),
    "a long line": (lambda _: b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, "malformed"),
    "a long header": (lambda _: b"GET /v1/card HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431, "malformed"),
    "many headers": (lambda _: b"GET /v1/card HTTP/1.1\r\n" + b"X: y\r\n" * 150 + b"\r\n", 431, "malformed"),
    "a header cut": (lambda _: POST + b"Content-Len", 409, "malformed"),
    "no length": (_sent(b"", lambda _: b""), 409, "malformed"),
    "chunks": (_sent(b"Transfer-Encoding: chunked\r\n", lambda _: b""), 409, "malformed"),
    "length below 0": (_sent(b"Content-Length: -1\r\n", lambda _: b""), 409, "malformed"),
    "length with a sign": (_sent(b"Content-Length: +7\r\n", lambda _: b""), 409, "malformed"),
    "length in hex": (_sent(b"Content-Length: 0x10\r\n", lambda _: b""), 409, "malformed"),
    "length of 1e3": (_sent(b"Content-Length: 1e3\r\n", lambda _: b""), 409, "malformed"),
    "length in Arabic digits": (_sent("Content-Length: ٣\r\n".encode(), lambda _: b""), 409, "malformed"),
    "two lengths in one": (_sent(b"Content-Length: 7, 7\r\n", lambda _: b""), 409, "malformed"),
    "length of 20 digits": (_sent(b"Content-Length: 99999999999999999999\r\n", lambda _: b""), 409, "malformed"),
    "length of 2 GiB": (_sent(b"Content-Length: 2147483648\r\n", lambda _: b""), 409, "model-size"),
    "length of 2 GiB and 1": (_sent(b"Content-Length: 2147483649\r\n", lambda _: b""), 409, "malformed"),
    "length 0": (_sent(b"Content-Length: 0\r\n", lambda _: b""), 409, "malformed"),
    "a body cut": (lambda good: POST + b"Content-Length: %d\r\n\r\n" % len(good) + good[: len(good) // 3], 409, "malformed"),
    "two requests in one": (_sent(b"Content-Length: 3\r\n", lambda _: b"abcGET /v1/status HTTP/1.1\r\n\r\n"), 409, "malformed"),
    "a pickle": (_sized(b"", lambda _: pickle.dumps({"request": print})), 409, "malformed"),
    "an archive": (_sized(b"", lambda _: b"PK\x05\x06" + bytes(18)), 409, "malformed"),
    "packed": (_sized(b"Content-Encoding: deflate\r\n", zlib.compress), 409, "malformed"),
    "a packed bomb": (_sized(b"Content-Encoding: deflate\r\n", lambda _: zlib.compress(bytes(1 << 26))), 409, "malformed"),
    "train by GET": (lambda _: b"GET /v1/train HTTP/1.1\r\n\r\n", 404, "malformed"),
    "the card by POST": (lambda _: b"POST /v1/card HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404, "malformed"),
    "status with a query": (lambda _: b"GET /v1/status?x HTTP/1.1\r\n\r\n", 404, "malformed"),
    "a whole URL": (lambda _: b"GET http://localhost/v1/card HTTP/1.1\r\n\r\n", 404, "malformed"),
    "a way up": (lambda _: b"GET /v1/../../etc/passwd HTTP/1.1\r\n\r\n", 404, "malformed"),
    "an escaped name": (lambda _: b"GET /v1/%63ard HTTP/1.1\r\n\r\n", 404, "malformed"),
    "a NUL": (lambda _: b"GET /v1/card\0 HTTP/1.1\r\n\r\n", 404, "malformed"),
}  # fmt: skip
"""What goes over the socket, the status and the code."""


def _head(edit: Callable[[dict[str, Any]], Any]) -> Bytes:
    """Return the message with another header, of the same data."""

    def work(good: bytes) -> bytes:
        header, data = parted(good)
        return framed(edit(header), data)

    return work


def _each(**changes: Any) -> Bytes:
    """Return the message with these fields of each array changed."""
    return _head(lambda head: {key: value if key == "__metadata__" else value | changes for key, value in head.items()})


def _text_more(more: str) -> Bytes:
    return _head(lambda head: (json.dumps(head)[:-1] + more + "}").encode())


def _meta(value: Any) -> Bytes:
    return _head(lambda head: head | {"__metadata__": value})


FRAMES: dict[str, Bytes] = {
    "one byte": lambda _: b"\0",
    "a length alone": lambda _: b"\x10" + bytes(7),
    "cut in the header": lambda good: good[:100],
    "cut in the data": lambda good: good[:-1],
    "a byte more": lambda good: good + b"\0",
    "header of 2^63": lambda good: (1 << 63).to_bytes(8, "little") + good[8:],
    "header of all ones": lambda good: b"\xff" * 8 + good[8:],
    "header past the end": lambda good: len(good).to_bytes(8, "little") + good[8:],
    "header one byte short": lambda good: (int.from_bytes(good[:8], "little") - 1).to_bytes(8, "little") + good[8:],
    "a list": _head(lambda _: []),
    "null": _head(lambda _: None),
    "a number": _head(lambda _: 7),
    "a word": _head(lambda _: "request"),
    "deep": _head(lambda _: DEEP.encode()),
    "deep and closed": _head(lambda _: (DEEP + "]" * len(DEEP)).encode()),
    "deep objects": _head(lambda _: b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "not UTF-8": _head(lambda head: json.dumps(head).encode() + b"\xff"),
    "UTF-16": _head(lambda head: json.dumps(head).encode("utf-16")),
    "no metadata": _head(lambda head: {key: value for key, value in head.items() if key != "__metadata__"}),
    "metadata as a list": _meta([]),
    "metadata as a word": _meta("request"),
    "request as a number": _meta({"request": 5}),
    "request as a list": _meta({"request": [1]}),
    "request as an object": _meta({"request": {"round": 1}}),
    "metadata twice": _text_more(', "__metadata__": {"request": "{}"}'),
    "an array twice": _text_more(', "head.bias": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'),
    "a second request": _head(lambda head: head | {"__metadata__": head["__metadata__"] | {"metrics": "{}"}}),
    "bfloat16": _each(dtype="BF16"),
    "eight bits": _each(dtype="F8_E4M3"),
    "no such type": _each(dtype="object"),
    "a type as a number": _each(dtype=7),
    "shape below 0": _each(shape=[-1]),
    "shape beyond 64 bits": _each(shape=[2**63, 2**63]),
    "shape of a float": _each(shape=[1.5]),
    "shape of words": _each(shape=["10"]),
    "shape that is none": _each(shape=None),
    "all at the start": _each(data_offsets=[0, 40]),
    "offsets back to front": _each(data_offsets=[40, 0]),
    "offsets below 0": _each(data_offsets=[-4, 0]),
}
"""Name -> what becomes of an honest message; every one is ``malformed``."""

ALIKE: dict[str, Bytes] = {
    "the same": lambda good: good,
    "strides, which nobody reads": _each(strides=[1]),
    "names in another order": _head(lambda head: dict(reversed(head.items()))),
    "blanks around the header": _head(lambda head: b" " * 9 + json.dumps(head, indent=3).encode() + b" " * 5),
}
"""What says the same as the honest message, and gets the same reply."""

Arrays = Callable[[wire.Arrays], wire.Arrays]


def _all(edit: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    return lambda arrays: {key: edit(value) for key, value in arrays.items()}


def _one(edit: Callable[[np.ndarray], np.ndarray], key: str = "head.weight") -> Arrays:
    return lambda arrays: arrays | {key: edit(arrays[key])}


def entry(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return an edit of the last entry alone."""
    return lambda x: np.append(x.ravel()[:-1], np.float32(value)).reshape(x.shape).astype(x.dtype)


ARRAYS: dict[str, tuple[Arrays, str]] = {
    "none": (lambda _: {}, "misshapen"),
    "one left out": (lambda arrays: {key: value for key, value in arrays.items() if key != "head.bias"}, "misshapen"),
    "one more": (lambda arrays: arrays | {"body.extra": np.zeros(1, np.float32)}, "misshapen"),
    "a name with a way up": (lambda arrays: arrays | {"../../x": np.zeros(1, np.float32)}, "misshapen"),
    "an empty name": (lambda arrays: arrays | {"": np.zeros(1, np.float32)}, "misshapen"),
    "a name that looks alike": (
        lambda arrays: {key.replace("a", "\u0430") if key == "head.bias" else key: value for key, value in arrays.items()},
        "misshapen",
    ),
    "a thousand names": (lambda arrays: arrays | {f"x{n}": np.zeros(0, np.float32) for n in range(1000)}, "misshapen"),
    "float64": (_all(lambda x: x.astype(np.float64)), "misshapen"),
    "float16": (_one(lambda x: x.astype(np.float16)), "misshapen"),
    "whole numbers": (_one(lambda x: x.astype(np.int64)), "misshapen"),
    "yes and no": (_one(lambda x: x > 0), "misshapen"),
    "turned": (_one(lambda x: x.T), "misshapen"),
    "flat": (_one(np.ravel), "misshapen"),
    "a side more": (_one(lambda x: x[None]), "misshapen"),
    "a row less": (_one(lambda x: x[1:]), "misshapen"),
    "empty": (_one(lambda x: x[:0]), "misshapen"),
    "a number alone": (_one(lambda x: np.float32(0).reshape(())), "misshapen"),
    "NaN": (_one(entry(np.nan)), "non-finite"),
    "infinity": (_one(entry(np.inf)), "non-finite"),
    "minus infinity": (_one(entry(-np.inf), "head.bias"), "non-finite"),
    "a float's end": (_one(entry(3.4e38)), "too-large"),
    "just above 1,000": (_one(entry(float(np.nextafter(np.float32(1000), np.float32(2000))))), "too-large"),
    "just below -1,000": (_one(entry(-float(np.nextafter(np.float32(1000), np.float32(2000))))), "too-large"),
    "bias just above 25": (_one(entry(float(np.nextafter(np.float32(25), np.float32(50)))), "head.bias"), "too-large"),
    "bias of 55": (_one(entry(55.0), "head.bias"), "too-large"),
}  # fmt: skip

FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "no protocol": ({"protocol": 0}, "protocol"),
    "a later protocol": ({"protocol": 2**70}, "protocol"),
    "protocol as a word": ({"protocol": "1"}, "malformed"),
    "protocol as a float": ({"protocol": 1.0}, "malformed"),
    "protocol as yes": ({"protocol": True}, "malformed"),
    "round 0": ({"round": 0}, "malformed"),
    "round -1": ({"round": -1}, "malformed"),
    "round as a float": ({"round": 1.0}, "malformed"),
    "round as a word": ({"round": "1"}, "malformed"),
    "round as yes": ({"round": True}, "malformed"),
    "round as a list": ({"round": [1]}, "malformed"),
    "round of null": ({"round": None}, "malformed"),
    "round past the run": ({"round": 3}, "rounds"),
    "round of a million": ({"round": 1_000_000}, "rounds"),
    "round of 10^30": ({"round": 10**30}, "malformed"),
    "run with a way up": ({"run_id": "../../etc"}, "malformed"),
    "run that is hidden": ({"run_id": ".run"}, "malformed"),
    "run with a dash": ({"run_id": "a-000001"}, "malformed"),
    "run with a line end": ({"run_id": "run\n"}, "malformed"),
    "run with a NUL": ({"run_id": "run\0"}, "malformed"),
    "run in another script": ({"run_id": "ru\u0578"}, "malformed"),
    "run of nothing": ({"run_id": ""}, "malformed"),
    "run that is long": ({"run_id": "r" * 65}, "malformed"),
    "run as a number": ({"run_id": 7}, "malformed"),
    "a field more": ({"secret": "x"}, "malformed"),
    "a site's number": ({"site": 1}, "malformed"),
    "config as an object": ({"config": {}}, "malformed"),
    "config of null": ({"config": None}, "malformed"),
    "hash of another": ({"sha256": "0" * 64}, "config"),
    "hash in capitals": ({"sha256": "A" * 64}, "malformed"),
    "hash cut": ({"sha256": "0" * 63}, "malformed"),
    "hash as a number": ({"sha256": 0}, "malformed"),
}

TEXTS: dict[str, tuple[str, str]] = {
    "nothing": ("", "config"),
    "deep": (DEEP, "config"),
    "deep and closed": ("[" * 3000 + "]" * 3000, "config"),
    "a list": ("[]", "config"),
    "a number": ("1", "config"),
    "null": ("null", "config"),
    "a number without end": ('{"seed": ' + "9" * 5000 + "}", "config"),
    "a number of 4,000 digits": ('{"seed": ' + "9" * 4000 + "}", "config"),
    "a key twice": ('{"seed": 1, "seed": 2}', "config"),
    "a key below twice": ('{"privacy": {"epsilon": 1, "public_size": 100, "epsilon": 2}}', "config"),
    "YAML": ("seed: 1", "config"),
    "a comment": ('{"seed": 1} # x', "config"),
    "not a number": ('{"optim": {"lr": NaN}}', "config"),
    "infinity": ('{"federation": {"deadline_s": Infinity}}', "config"),
    "1e999": ('{"federation": {"deadline_s": 1e999}}', "config"),
    "NaN in what nobody reads": ('{"federation": {"strategy": {"name": "own", "options": {"x": NaN}}}}', "config"),
    "half a character": ('{"output": {"dir": "\ud800"}}', "malformed"),
    "a NUL": ('{"output": {"dir": "a\\u0000b"}}', "config"),
    "an unknown section": ('{"secrets": {}}', "config"),
    "a key in another script": ('{"s\u0435ed": 1}', "config"),
    "a key of Python": ('{"__class__": "x"}', "config"),
    "an internal name": ('{"method": {"name": "base", "lambda": 1, "lambda_": 2}}', "config"),
    "a section as a list": ('{"privacy": [1, 2]}', "config"),
    "a section as a word": ('{"method": "base"}', "config"),
    "epsilon as an object": ('{"privacy": {"epsilon": {"value": 1}, "public_size": 100}}', "config"),
    "rounds as words": ('{"federation": {"rounds": "two"}}', "config"),
    "rounds and a half": ('{"federation": {"rounds": 2.5}}', "config"),
    "options without end": ('{"method": {"options": {"x": ' + "[" * 300 + "]" * 300 + "}}}", "config"),
}  # fmt: skip
"""Texts in the place of a config, and their code; the hash is theirs."""
