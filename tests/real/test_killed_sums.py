"""Sums among four real daemons that sign what they open: one of them, or the server, is killed at ten moments of each stage.

The server runs in this process, or in one of its own where it is what dies; its messages go to the daemons by the relay of a
SuperNode. Whatever is killed, each site sends one vector a round and opens one sum of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from safetensors.numpy import load_file

from clients.app import app
from mpssl_fed import simulate
from mpssl_fed.deployment.relay import SOCKET
from mpssl_fed.federation.engines.inprocess import InProcessGrid
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.federation.server.rounds import Job, serve
from mpssl_fed.federation.site.identity import fingerprint_of, identity_key
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import open_run
from tests.patience import PATIENCE_S
from tests.real.sites import POLICY, TINY, RealSite, tiny

pytestmark = pytest.mark.slow
SITES, STAGES, MOMENTS, UNDISTURBED = 4, ("hello", "join", "train", "sign", "open"), 10, 2
PLAN = list(itertools.product(range(MOMENTS), STAGES))
SUMS = {"sites": SITES, "local_steps": 1, "aggregation": "secure", "secure": {"slots": 1}, "deadline_s": 600}


def _rounds(number: int) -> dict[str, Any]:
    return SUMS | {"rounds": number, "eval_every": number}


KILLED_SITE, KILLED_SERVER = (tiny(f"federation={_rounds(number)}") for number in (UNDISTURBED + len(PLAN), 2 + MOMENTS))


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealSite]]:
    root = tmp_path_factory.mktemp("daemons")
    states = [root / str(site) / "private" / "state" for site in range(SITES)]
    for state in states:
        state.mkdir(parents=True)
        state.parent.chmod(0o700)
        state.chmod(0o700)
    asks = {"required": True, "min_sites": 3, "peers": [fingerprint_of(identity_key(state)) for state in states]}
    policy = POLICY | {"max_rounds": 100, "secure_aggregation": asks}
    sites = [RealSite(root / str(site), KILLED_SITE, site, policy) for site in range(SITES)]
    try:
        for site in sites:
            site.start()
        yield sites
    finally:
        for site in sites:
            site.stop()


def _stage(message: Message) -> str:
    header: Any = message.content.get("config", {})
    return "train" if message.metadata.message_type == "train" else str(header.get("phase", ""))


@dataclass
class Log:
    """What left each site, a line each, on disk before it reaches the server."""

    file: Path

    def heard(self, site: int, message: Message, reply: Message) -> None:
        """Note a vector or an answer."""
        stage, header = _stage(message), message.content.get("config", {})
        if reply.has_error() or stage not in ("train", "open"):
            return
        header_: Any = header
        if stage == "train":
            array: Any = reply.content["arrays"]
            number, said = header_["round"], hashlib.sha256(array["masked"].data).hexdigest()
        else:
            body = json.loads(header_["body"])
            number, said = body["round"], json.dumps([body["epoch"], body["slot"], body["participants"], body["survivors"]])
        with open(self.file, "a", encoding="ascii") as file:
            file.write(json.dumps([stage, site, number, said]) + "\n")

    def require_one_each(self) -> None:
        """AssertionError where a site sent two vectors of a round, or where two sums of one were opened, by whichever sites."""
        said: dict[tuple[Any, ...], set[str]] = defaultdict(set)
        for line in self.file.read_text(encoding="ascii").splitlines():
            stage, site, number, what = json.loads(line)
            said[(stage, number, site if stage == "train" else "all")].add(what)
        assert said
        assert {key: len(one) for key, one in said.items() if len(one) > 1} == {}


@dataclass
class OneDies:
    """A client of which daemon 0 dies in each round after the first, at the moment and stage that the plan has for it.

    Moment 0 is before the message reaches it, the last after its answer has left, the others lie evenly within the time that
    such an answer took in the rounds before. It is started again at once.
    """

    daemons: list[RealSite]
    log: Log
    number: int = 0
    took: dict[str, float] = field(default_factory=dict)
    died: list[tuple[int, str]] = field(default_factory=list)

    def __call__(self, message: Message, context: Context) -> Message:
        site, stage = context.node_id - 1, _stage(message)
        self.number += site == 0 and stage == "hello"
        turn = self.number - 1 - UNDISTURBED
        due = site == 0 and 0 <= turn < len(PLAN) and PLAN[turn][1] == stage
        moment = PLAN[turn][0] if due else -1
        if moment == 0:
            self._kill()
        dying = threading.Timer(self.took.get(stage, 0.0) * moment / (MOMENTS - 1), self._kill)
        if 0 < moment < MOMENTS - 1:
            dying.start()
        began = time.monotonic()
        reply = app(message, context)
        if turn >= 0:
            dying.is_alive() and dying.join()
        elif site == 0:
            self.took[stage] = time.monotonic() - began
        if moment == MOMENTS - 1:
            self._kill()
        if due:
            self.died.append(PLAN[turn])
        self.log.heard(site, message, reply)
        return reply

    def _kill(self) -> None:
        self.daemons[0].kill()
        self.daemons[0].start(wait=False)


def test_a_site_killed_at_any_moment_costs_no_round_and_opens_nothing_twice(daemons: list[RealSite], tmp_path: Path) -> None:
    """The run has as many rounds as there are moments, each with keys of its own; three of four open."""
    log = Log(tmp_path / "log")
    client = OneDies(daemons, log)
    run = open_run(KILLED_SITE, tmp_path / "run")
    serve(_grid(client, daemons), Job(run, expected_sites=SITES, travels=for_sites(KILLED_SITE)))
    history = read_history(run.folder)[1:]
    assert client.died == PLAN
    assert [one.number for one in history if one.failed or one.answered < SITES - 1] == []
    assert {code for one in history for code in one.rejected} <= {"secure-epoch"}
    assert any(one.rejected for one in history)
    log.require_one_each()


def _grid(client: Any, daemons: list[RealSite] | list[str]) -> InProcessGrid:
    sockets = [str(one.socket) if isinstance(one, RealSite) else one for one in daemons]
    return InProcessGrid(client, [{SOCKET: socket} for socket in sockets])


@dataclass
class ServerDies:
    """A client within the server's own process, which it kills at a moment of a stage: before or after the message to each of
    four sites or, of the last two, a little later than that."""

    log: Log
    stage: str
    moment: int
    seen: int = 0

    def __call__(self, message: Message, context: Context) -> Message:
        due = _stage(message) == self.stage
        at, self.seen = self.seen, self.seen + due
        if due and self.moment == 2 * at:
            os.kill(os.getpid(), signal.SIGKILL)
        if due and self.moment in (8, 9) and at == 2 * (self.moment - 8) + 1:
            threading.Timer(0.003, os.kill, (os.getpid(), signal.SIGKILL)).start()
        reply = app(message, context)
        self.log.heard(context.node_id - 1, message, reply)
        if due and self.moment == 2 * at + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply


def _server(folder: str, sockets: list[str], stage: str, moment: int) -> None:
    run = open_run(KILLED_SERVER, Path(folder) / "run", resume=True)
    client = ServerDies(Log(Path(folder) / "log"), stage, moment)
    serve(_grid(client, sockets), Job(run, expected_sites=SITES, travels=for_sites(KILLED_SERVER)))


def test_a_server_killed_at_any_moment_goes_on_and_opens_no_second_sum(daemons: list[RealSite], tmp_path: Path) -> None:
    """And ends with the bits of a run that nobody killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    sockets, ends = [str(one.socket) for one in daemons], []
    for moment, stage in [*PLAN, (-1, "")]:
        child = context.Process(target=_server, args=(str(tmp_path), sockets, stage, moment))
        child.start()
        child.join(PATIENCE_S)
        ends.append(child.exitcode)
    assert ends == [-signal.SIGKILL] * len(PLAN) + [0]
    assert read_manifest(tmp_path / "run")["status"] == "finished"
    assert [(one.answered, one.failed) for one in read_history(tmp_path / "run")[1:]] == [(SITES, False)] * (2 + MOMENTS)
    Log(tmp_path / "log").require_one_each()
    whole = simulate(TINY | {"federation": _rounds(2 + MOMENTS)}, f"output.dir={tmp_path / 'whole'}")
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", whole.folder))
    assert all((mine[key] == theirs[key]).all() for key in theirs)
