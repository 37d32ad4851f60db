"""A daemon under attack: what is sent to it, what comes back whole, and what its ledger and its log say meanwhile."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mpssl_fed.codes import Code
from mpssl_fed.config import PROTOCOL_VERSION, Config, from_json, from_mapping
from mpssl_fed.deployment import wire
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.privacy.ledger import Ledger
from tests.federation.hostile_requests import HONEST, OWNER, written
from tests.real.sites import RealSite, tiny, weights

HEADERS = {"Server", "Date", "Content-Length", "Connection"}
"""All that a reply says beside its body."""

LINE = re.compile(r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:INFO|WARNING) mpssl_fed\.(?:daemon|site): |site site-0 is ready$)")
"""How each line of a daemon's log begins; an ERROR would be a fault of its own."""

DIGITS: dict[str, Any] = {"classes": [str(digit) for digit in range(10)], "size": 32, "channels": 1}
PIXELS: dict[str, Any] = {
    "data": {"task": DIGITS},
    "model": {"name": "pixels"},
    "method": {"name": "base"},
    "optim": {"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0},
    "federation": {"rounds": 1, "local_steps": 1},
    "privacy": {"epsilon": 0.5, "public_size": 1000, "sample_rate": 1.0},
}
"""A request whose reply is the weights less one release, as it is; every image is drawn, and q 1 is priced in no time."""

CNN: dict[str, Any] = {"model.name": "small-cnn"}


@lru_cache(maxsize=1)
def _generator() -> dict[str, Any]:
    return OWNER["generators"][0] | {"sha256": parts.generator(tiny("method.name=mp-ssl")).state_hash()}  # type: ignore[union-attr]


def guarded() -> dict[str, Any]:
    """Return the policy of the cases in-process, for the generator of this machine."""
    return OWNER | {"generators": [_generator()]}


def generous() -> dict[str, Any]:
    """Return a policy that agrees to much, of little work each: what is attacked is what it takes."""
    much = {
        "max_epsilon": 100.0,
        "max_sample_rate": 1.0,
        "max_rounds": 5,
        "max_local_steps": 5,
        "max_steps": 20,
        "max_parameters": 300_000,
    }
    listed = ["base", "mp-ssl", "mp-ssl+", "vic-gssl", "naive-gssl", "p-ssl", "random+scr", "meta-optimised+infonce"]
    return guarded() | much | {"methods": listed, "metrics": ["unsupervised", "generated"]}


def unprotected() -> dict[str, Any]:
    """Return the policy of an owner who asks for no differential privacy."""
    return generous() | {"scope": "off", "metrics": ["loss"]}


@dataclass(frozen=True)
class Answer:
    """status 0: the connection was cut without a word. code: of a refusal, "" of what was taken."""

    status: int
    code: str = ""
    arrays: wire.Arrays = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def taken(self) -> bool:
        """Whether it was answered by weights."""
        return self.status == 200


@dataclass
class Target:
    """A daemon with the files of its site in ``folder``, under ``policy``; ``tally`` counts its answers by code.

    seen: what was measured of replies that were taken, the least and the most of each.
    """

    folder: Path
    policy: Mapping[str, Any]
    tally: Counter[str] = field(default_factory=Counter)
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.site = RealSite(self.folder, tiny(), policy=dict(self.policy))
        self.images = parts.labelled(tiny(), 0).floats().numpy()
        self.site.start()

    def post(self, body: bytes, target: str = wire.TRAIN) -> Answer:
        """Send a request; AssertionError where a reply holds anything beside a code, or arrays and listed numbers."""
        connection = wire.Connection(self.site.socket, 120)
        try:
            connection.request("POST", target, body, {"Content-Type": wire.ARRAYS_TYPE})
            response = connection.getresponse()
            assert {name for name, _ in response.getheaders()} <= HEADERS
            answer = self.read(response.status, response.read())
        finally:
            connection.close()
        self.tally[answer.code or "taken"] += 1
        return answer

    def read(self, status: int, content: bytes) -> Answer:
        """Return what a reply says."""
        if status != 200:
            said = json.loads(content)
            assert set(said) == {"code"}, "a refusal says more than its code"
            assert said["code"] in set(Code)
            return Answer(status, said["code"])
        if content.startswith(b'{"site"'):
            assert json.loads(content) == {"site": 0}
            return Answer(status)
        arrays, text = wire.unpack(content, "metrics")
        return Answer(status, "", arrays, json.loads(text))

    def raw(self, sent: bytes) -> Answer:
        """Send bytes as they are, then no more."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(60)
            peer.connect(str(self.site.socket))
            content = b""
            with suppress(ConnectionError):
                peer.sendall(sent)
                peer.shutdown(socket.SHUT_WR)
                while chunk := peer.recv(1 << 16):
                    content += chunk
        if not content:
            answer = Answer(0, "cut off")
        elif not content.startswith(b"HTTP/"):  # of HTTP 0.9
            answer = self.read(200 if content.startswith(b'{"site"') else 409, content)
        else:
            head, _, rest = content.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
            assert {line.split(b":")[0].decode() for line in head.split(b"\r\n")[1:]} <= HEADERS
            answer = self.read(int(head.split()[1]), rest or b'{"code": "malformed"}')  # none to HEAD
        self.tally[answer.code or "taken"] += 1
        return answer

    def note(self, what: str, value: float) -> float:
        """Keep a measured value, and return it."""
        least, most = self.seen.get(what, (value, value))
        self.seen[what] = (min(least, value), max(most, value))
        return value

    @property
    def history(self) -> dict[tuple[float, float], int]:
        """What was spent so far, after a check of the whole ledger."""
        ledger = Ledger(self.site.state / "ledger.sqlite")
        if ledger.files.absent:
            return {}
        ledger.verify()
        return dict(ledger.spent(self.policy["dataset"]).history) if ledger.datasets else {}

    @contextmanager
    def spends(self, releases: Mapping[tuple[float, float], int]) -> Iterator[None]:
        """Assert that the ledger holds so many releases more afterwards, no fewer and no others."""
        before = Counter(self.history)
        yield
        assert Counter(self.history) - before == Counter(releases)

    def no_trace(self) -> None:
        """Assert that the log's lines are the daemon's own, none of a fault, none with a name or a path from the owner's disk."""
        log = self.site.log.read_text(encoding="utf-8")
        strange = [line for line in log.splitlines() if not (LINE.match(line) and line.isprintable())]
        assert strange == []
        assert str(self.site.private) not in log
        assert ".png" not in log


def config_of(changes: Mapping[str, Any], base: Mapping[str, Any] = PIXELS) -> tuple[Config, str]:
    """Return a config and its text with ``changes``, by their dotted keys."""
    text = written(for_sites(from_mapping(base)).dump(), dict(changes))
    return from_json(text), text


def start(changes: Mapping[str, Any], base: Mapping[str, Any] = PIXELS) -> wire.Arrays:
    """Return the initial weights of a config."""
    return weights(config_of(changes, base)[0])


def body(text: str, arrays: wire.Arrays, run: str, number: Any = 1, **header: Any) -> bytes:
    """Return a train request with the config ``text``; header: fields that replace those of an honest one."""
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    honest = {"protocol": PROTOCOL_VERSION, "run_id": run, "round": number, "config": text, "sha256": sha256}
    return wire.pack(arrays, "request", honest | header)


def ask(run: str, changes: Mapping[str, Any] | None = None, number: int = 1, arrays: wire.Arrays | None = None) -> bytes:
    """Return a request on the base of PIXELS, from its initial weights unless others are given."""
    text = written(for_sites(from_mapping(PIXELS)).dump(), dict(changes or {}))
    return body(text, start(changes or {}) if arrays is None else arrays, run, number)


def framed(header: Any, data: bytes = b"") -> bytes:
    """Return safetensors with this header, a text or what JSON makes of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def parted(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of safetensors."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def honest_text() -> str:
    """Return the config that the guarded policy takes: its images are this site's."""
    return json.dumps(for_sites(from_mapping(HONEST | {"data": {"task": DIGITS}})).dump())


Edit = Callable[[np.ndarray], np.ndarray]
