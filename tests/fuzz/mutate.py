"""Bad input, made from what ships: values of another type, range or nesting, keys given twice, torn text, files that are none."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 10**9, -(10**18), 2**63, 2**64, 10**40, 0.0, -0.5, 1e-300, 1e300, float("inf"),
    float("nan"), "", " ", "null", "~", "true", "off", "0b_", "1_000", "007", "1e400", "2024-01-01", "2024-02-30", "12:30",
    "a" * 5000, "ä·日本", "\u202e", "\x00", "\x1b[31m", "[red]", "{}", "[[", "../..", "/", "/dev/null", "/dev/zero",
    "~nosuchuser/x", "C:\\x", "%s", "{x}", "$HOME", "a\nb", "mp-ssl", "base", "iid", "dirichlet", "resnet18", "glyphs-letters",
    "image-folder", "medmnist/x", "os:system", "fedprox", "cuda",
]  # fmt: skip
NESTED: list[Any] = [
    [],
    {},
    [[]],
    [1, [2, [3]]],
    {"a": {"b": {"c": 1}}},
    [None],
    {"name": None},
    {"name": ["iid"]},
    {"": 1},
    {1: 2},
]
TEXTS = [
    "&a [*a]", "*nowhere", "!!python/name:os.system", "!!int x", "!!binary =", "!!timestamp x", "? [a]", "<<: 3", "{a: 1, a: 2}",
    "- -", "|", ">-", "@", "`", "%", "\t", "#", "'", '"', "[", "]", "{", "}", ":", "---", "...", "0x", ".e", "1.", "<<: *x",
    "\ufeff", "\x85",
]  # fmt: skip

COUNTS = [0, 1, 2, 3, 8, 31, 1000, 10**6, 10**9, 2**31, 10**18, 2**63, 10**38]
SIZES = [1e-300, 1e-9, 0.001, 0.1, 0.5, 0.999999, 1.0, 1.5, 100.0, 1e9, 1e300]
NAMES = [
    "base", "naive-gssl", "p-ssl", "mp-ssl", "mp-ssl+", "vic-gssl", "ssl-real", "generator-only", "fedprox", "linear-hog", "iid",
    "dirichlet", "pathological", "quantity", "small-cnn", "resnet18", "pixels", "hog", "random", "krum", "fedadam", "fedmedian",
    "mnist-5k", "cifar10", "fashion-mnist", "pets", "image-folder", "glyphs-letters", "glyphs-digits-vqvae", "biggan-deep-128",
    "folder", "exported", "none", "scr", "freematch", "off", "end-to-end", "labelled-step", "subject", "image", "head", "norm",
    "both", "body", "all", "group", "batch", "sgd", "adamw",
]  # fmt: skip

NO_KEYS = [
    "",
    "a..b",
    "data.name.x",
    "seed.x",
    "x" * 300,
    "ä",
    "method.options.a",
    ".",
    "seed.",
    ".seed",
    "__class__",
    "model_config",
]
DEEP = 10_000
CONTENTS = [
    b"", b"\n", b"\x00", b"seed: 1\x00", b"\xff\xfe\x00\x80", b"seed: \xe4\n", b"\xef\xbb\xbfseed: 1\n",
    b"seed: 1\r\nseed: 2\r\n", b"[" * DEEP, b"{a: " * DEEP, b"- " * DEEP, b"? " * DEEP,
    b"a:\n" + b"".join(b" " * n + b"a:\n" for n in range(1, 2000)),
    b"a: &a [x]\n" + b"".join(b"a%d: &a%d [*a, *a]\n" % (n, n) for n in range(99)), b"a: &a {b: *a}\n", b"<<: &a {<<: *a}\n",
    b"".join(b"%c: &%c [%s]\n" % (97 + n, 97 + n, b", ".join([b"*%c" % (96 + n) if n else b"1"] * 9)) for n in range(20)),
    b"seed: " + b"9" * 5000, b"2024-01-01: 1\n", b"? [a, b]\n: 1\n", b"? {a: 1}\n: 1\n", b"null: 1\n", b"1: 2\n", b"- 1\n",
    b"x" * 10**5, b"---\nseed: 1\n---\nseed: 2\n", b"%YAML 9.9\n---\nseed: 1\n", b"%TAG ! x\n---\n", b"PK\x03\x04",
    b"\x89PNG\r\n", b"\x80\x04K\x01.", ("k" * 10**5).encode() + b": 1\n", "\u202eseed: 1\n".encode(),
    "data: {root: '\u202e\u2066x'}\n".encode(), b"data: {name: \"\\ud800\"}\n",
]  # fmt: skip
"""Whole files that are no config."""

Paths = list[tuple[Any, ...]]


def value(random: Random) -> Any:
    """Return something that may stand anywhere and rarely belongs there."""
    return copy.deepcopy(random.choice(SCALARS if random.random() < 0.75 else NESTED))


def plausible(old: Any, random: Random) -> Any:
    """Return another value of the type of ``old``, often at the edge of what it may be, or beyond."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return random.choice(COUNTS)
    if isinstance(old, float):
        return random.choice(SIZES)
    return random.choice(random.choice([NAMES, COUNTS, SIZES]) if old is None else NAMES)


def paths(fields: Any, here: tuple[Any, ...] = ()) -> Paths:
    """Return the path of every value in nested mappings and lists."""
    items: Any = fields.items() if isinstance(fields, dict) else enumerate(fields) if isinstance(fields, list) else ()
    return [path for key, inner in items for path in ((*here, key), *paths(inner, (*here, key)))]


def nudge(fields: dict[str, Any], random: Random) -> None:
    """Give one value in nested ``fields`` another of its type, in place."""
    leaves = [path for path in paths(fields) if not isinstance(_at(fields, path), dict | list)]
    if leaves:
        path = random.choice(leaves)
        _at(fields, path[:-1])[path[-1]] = plausible(_at(fields, path), random)


def _at(fields: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        fields = fields[part]
    return fields


def change(fields: dict[str, Any], random: Random) -> None:
    """Change one thing in nested ``fields``, in place: a value, a key, or where something stands."""
    places = paths(fields)
    if not places:
        fields["seed"] = value(random)
        return
    path = random.choice(places)
    holder = _at(fields, path[:-1])
    last, kind = path[-1], random.randrange(7)
    if kind <= 2:
        holder[last] = value(random)
    elif kind == 3:
        holder[last] = random.choice([[holder[last]], {"name": holder[last]}, {last: holder[last]}, str(holder[last])])
    elif kind == 4 and isinstance(holder, dict):
        holder[random.choice([str(last)[1:], f"{last}s", "name", "options", "", f"{last}.x", "ä"])] = holder.pop(last)
    elif kind == 5 and isinstance(holder, dict):
        del holder[last]
    else:
        other = _at(fields, random.choice(places)[:-1])
        if isinstance(other, dict):
            other[str(last)] = copy.deepcopy(holder[last])


def torn(text: str, random: Random) -> str:
    """Return YAML text with one thing wrong that no mapping has: a line twice, a cut, an odd mark, another indent."""
    lines = text.splitlines() or [""]
    at = random.randrange(len(lines))
    line = lines[at]
    changes: list[Callable[[], list[str]]] = [
        lambda: [line, line],
        lambda: [line[: random.randrange(len(line) + 1)]],
        lambda: [f"{line.partition(':')[0]}: {random.choice(TEXTS)}"],
        lambda: [" " * random.randrange(5) + line.strip()],
        lambda: [line + random.choice(TEXTS)],
        lambda: [],
        lambda: [random.choice(TEXTS), line],
    ]
    whole = "\n".join([*lines[:at], *random.choice(changes)(), *lines[at + 1 :]])
    return whole[: random.randrange(len(whole) + 1)] if random.random() < 0.1 else whole


def yaml_of(fields: dict[str, Any], random: Random) -> bytes:
    """Return ``fields`` as the bytes of a YAML file: with values at the edge, or changed beyond that, torn, in another encoding."""
    fields = copy.deepcopy(fields)
    if random.random() < 0.5:
        for _ in range(random.choice([1, 1, 2, 3])):
            nudge(fields, random)
        return yaml.safe_dump(fields, sort_keys=False).encode()
    for _ in range(random.choice([1, 1, 1, 2, 4, 9])):
        change(fields, random)
    text = json.dumps(fields) if random.random() < 0.2 else yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    for _ in range(random.choice([0, 0, 1, 2])):
        text = torn(text, random)
    encoding = random.choice(["utf-8"] * 12 + ["utf-16", "latin-1"])
    return text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")


def override(keys: list[str], random: Random) -> str:
    """Return a ``key.path=value``, or nearly one."""
    key = random.choice(keys if random.random() < 0.85 else NO_KEYS)
    if random.random() < 0.4:
        return f"{key}={random.choice([*NAMES, *map(str, COUNTS), *map(str, SIZES)])}"
    text = random.choice([*TEXTS, *map(str, SCALARS), *(json.dumps(item) for item in NESTED)])
    return f"{key}{random.choice(['=', '=', '=', '=', '', '=='])}{text}".replace("\x00", "?")


def odd_file(file: Path, random: Random) -> str:
    """Put something at ``file`` that is no config, or no file, and return what it is in words."""
    kinds: dict[str, Callable[[], object]] = {
        "directory": file.mkdir,
        "FIFO": lambda: os.mkfifo(file),
        "dead link": lambda: file.symlink_to(file.parent / "nothing"),
        "link to itself": lambda: file.symlink_to(file),
        "link to a device": lambda: file.symlink_to(random.choice(["/dev/zero", "/dev/null", "/dev/full"])),
        "link to a folder": lambda: file.symlink_to("/"),
        "nothing": lambda: None,
    }
    if random.random() < 0.3:
        kind = random.choice(list(kinds))
        kinds[kind]()
        return kind
    content = random.choice(CONTENTS)
    file.write_bytes(content)
    return repr(content[:80])


def remove(file: Path) -> None:
    """Remove what :func:`odd_file` put there."""
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    else:
        file.unlink(missing_ok=True)
