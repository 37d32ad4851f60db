"""One table of codes: each can be provoked, is raised by whom the table says, and nothing outside it is ever raised."""

from __future__ import annotations

import ast
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

import mpssl_fed
from clients.app import app
from mpssl_fed.codes import By, Code
from mpssl_fed.config import Config
from mpssl_fed.deployment import relay, resident, wire, worker
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.own_generator import OwnGenerator
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal, code_of, to_error
from mpssl_fed.federation.secure_messages import SecureRequest
from mpssl_fed.federation.server import collect
from mpssl_fed.federation.site.budget import Budget, policy_budget, simulated_budget
from mpssl_fed.federation.site.masking import InMemory, Masking
from mpssl_fed.federation.site.site import Site
from mpssl_fed.federation.site.state import Entry, SiteState
from mpssl_fed.federation.weights import from_record, to_record
from mpssl_fed.privacy.policy import Policy
from mpssl_fed.privacy.policy_file import SecureAggregation
from tests.deployment.test_worker import Worker
from tests.federation.conftest import tiny_config
from tests.federation.hostile_requests import REFUSED
from tests.federation.secure.test_shared import SHARED
from tests.federation.test_privacy import private_config
from tests.federation.test_privacy_policy import POLICY, over_the_wire

PACKAGE = Path(mpssl_fed.__file__).parent
LIKE = {"head.bias": torch.zeros(2)}
TASK = parts.task_of(parts.dataset(tiny_config()))


def reply(values: list[float] = [0.0, 0.0], **metrics: float) -> RecordDict:  # noqa: B006
    array = Array(np.array(values, np.float32))
    return RecordDict({"arrays": ArrayRecord({"head.bias": array}), "metrics": MetricRecord({"num-examples": 1} | metrics)})  # type: ignore[dict-item]


def ask(config: Config | None = None, run: str = "run1", **header: Any) -> RecordDict:
    record = TrainRequest(SentConfig.of(run, config or tiny_config()), 1, to_record(LIKE)).to_record()
    for key, value in header.items():
        record["config"][key] = value  # type: ignore[index]
    return record


def at_a_node(record: RecordDict, **node_config: Any) -> None:
    """Raise what a node answers a train message with."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    context = Context(run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config={})
    answer = app(Message(record, 2, "train"), context)
    if answer.has_error():
        raise Refusal(code_of(answer.error))


def own(**changes: Any) -> None:
    """Ask a site for its images of a task that its owner may not have agreed to."""
    config = tiny_config()
    data = config.data.model_copy(update={"task": TASK})
    images = parts.dataset(config).train.take(range(3))
    mine = {"classes": TASK.classes, "channels": TASK.channels, "size": TASK.size, "stored_size": TASK.stored_size}
    OwnData(Path("/nowhere"), _loaded=images, **mine | changes).labelled(config.model_copy(update={"data": data}))


def spend(folder: Path, number: int = 1, unit: str = "image", spoil: bool = False, most: float = 8.0) -> None:
    budget, images = simulated_budget(private_config(f"privacy.unit={unit}"), folder), parts.dataset(tiny_config()).train.take([0])
    assert isinstance(budget, Budget)
    budget = replace(budget, limit=replace(budget.limit, max_epsilon=most))
    if spoil:
        budget.reserve("run", 1, True, images)
        (folder / "ledger.sqlite").write_bytes(b"not a ledger")
    budget.reserve("run", number, True, images)


def lost(folder: Path) -> None:
    state = SiteState(folder)
    state.save(Entry("run1", 2, "", {}, {}, TrainReply({}, {})))
    state.before("run1", 1)


def too_few(folder: Path) -> None:
    config = tiny_config("federation.evaluate_at_sites.times=1", "federation.rounds=1")
    site = parts.parted(config, replace(parts.simulated(tiny_config(), 0), labelled=parts.labelled(config, 0).take([0])), bytes(32))
    start = to_record(site.classifier.shared_state())
    Site(0, folder).evaluate("run1", 1, config, start, site, None)


def unread(record: RecordDict) -> None:
    raise KeyError("the site's own text")


def sort(read: Callable[[RecordDict], Any]) -> None:
    """Raise what the server counts a reply as that ``read`` fails on."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    answers = collect.Answers()
    collect._sort(answers, 0, Message(RecordDict(), reply_to=Message(RecordDict(), 2, "train")), read)
    raise Refusal(next(iter(answers.rejected)))


OPENING = {"epoch": "00", "slot": 0, "round": 1, "participants": [1, 2, 3], "survivors": [1, 2, 3], "request": ""}


def summed(folder: Path, phase: str, body: dict[str, Any]) -> None:
    config = tiny_config("federation.aggregation=secure")
    masking = Masking(folder, InMemory())
    sent = SentConfig.of("run", config)
    masking.answer(SecureRequest(sent, "hello"), config)
    masking.answer(SecureRequest(sent, phase, json.dumps(body)), config)


def closed(folder: Path) -> None:
    """Let a site join one epoch and, with the same keys, another."""
    config = tiny_config("federation.aggregation=secure")
    sent, sites = SentConfig.of("run", config), [Masking(folder / str(i), InMemory()) for i in range(4)]
    hellos = [json.loads(site.answer(SecureRequest(sent, "hello"), config)) for site in sites]
    for some in (hellos[:3], hellos):
        sites[0].answer(SecureRequest(sent, "join", json.dumps({"hellos": some})), config)


def busy() -> None:
    crowded = Worker()
    crowded.waiting = worker.MOST_WAITING
    crowded.do(bool)


def overdue() -> None:
    def endless() -> None:
        while True:
            slow.proceed()
            threading.Event().wait(0.005)

    slow = Worker(limit_s=0.01, grace_s=60.0)
    slow.do(endless)


def taken() -> None:
    class Two:
        def get_node_ids(self) -> list[int]:
            return [1, 2]

    roster = collect.Roster(Two(), lambda _: None)  # type: ignore[arg-type]
    roster.cards = {1: collect.SiteCard(0, 0), 2: collect.SiteCard(0, 0)}
    roster._seen = {1: 0, 2: 1}
    roster._holders()
    assert roster.pretenders == 1
    raise Refusal("number-taken")  # what the round loop counts them as


def resnet(weights: str) -> Config:
    return tiny_config("model.name=resnet18", f"model.pretrained={weights}")


def granted(policy: Policy | None, folder: Path, **more: Any) -> None:
    policy_budget(policy, over_the_wire(private_config()), folder / "ledger.sqlite", **more)


def _node(folder: Path) -> Context:
    return Context(1, 2, {"site-socket": str(folder / "none.sock")}, RecordDict(), {})


CASES: dict[str, Callable[[Path], Any]] = {
    "site-failed": lambda folder: at_a_node(ask(tiny_config("data.root=/nowhere", "data.name=folder")), **{"partition-id": 0}),
    "malformed": lambda _: TrainRequest.from_record(RecordDict()),
    "protocol": lambda _: TrainRequest.from_record(ask(protocol=99)),
    "config": lambda _: TrainRequest.from_record(ask(sha256="0" * 64)),
    "misshapen": lambda _: from_record(ArrayRecord({}), LIKE),
    "non-finite": lambda _: TrainReply.from_record(reply([0.0, float("nan")]), LIKE),
    "too-large": lambda _: TrainReply.from_record(reply([0.0, 1e9]), LIKE),
    "number": lambda _: TrainReply.from_record(reply(train_s=-1.0), LIKE),
    "size": lambda _: TrainReply.from_record(reply(**{"num-examples": 0}), LIKE),
    "round-lost": lost,
    "too-few": too_few,
    "no-site": lambda _: at_a_node(ask()),
    "policy": lambda _: parts.own(tiny_config("method.name=ssl-real"), parts.dataset(tiny_config()).train, None),
    "classes": lambda _: own(classes=("cat", "dog")),
    "image-shape": lambda _: own(channels=3),
    "model": lambda _: resident._parts(resnet("/nowhere/w.pth"), parts.dataset(tiny_config()).train, None),
    "no-daemon": lambda folder: relay._ask(_node(folder), "GET", wire.CARD),
    "busy": lambda _: busy(),
    "time-limit": lambda _: overdue(),
    "unreadable": lambda _: sort(unread),
    "number-taken": lambda _: taken(),
    "no-policy": lambda folder: granted(None, folder),
    "metric": lambda folder: granted(POLICY, folder, metrics=("loss",)),
    "model-size": lambda folder: granted(POLICY, folder, parameters=10**9),
    "generator": lambda folder: OwnGenerator(POLICY, None, folder)._approved("biggan-deep-128"),
    "unit": lambda folder: spend(folder, unit="subject"),
    "plan": lambda folder: spend(folder, number=99),
    "budget": lambda folder: spend(folder, most=1e-3),
    "ledger": lambda folder: spend(folder, spoil=True),
    "secure-terms": lambda folder: summed(folder, "join", {"hellos": []}),
    "secure-epoch": lambda folder: summed(folder, "open", OPENING),
    "secure-closed": closed,
    "trust": lambda folder: policy_budget(
        POLICY, over_the_wire(tiny_config(*SHARED, "privacy.delta=1e-5")), folder / "ledger.sqlite"
    ),
    "secure-wanted": lambda folder: granted(
        POLICY.model_copy(update={"secure_aggregation": SecureAggregation(required=True)}), folder
    ),
}
"""The codes that tests/federation/test_hostile_requests.py does not provoke, each by what raises it."""


@pytest.mark.parametrize("code", CASES)
def test_each_code_can_be_provoked(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "PATIENCE_S", 0.0)
    monkeypatch.setattr(worker, "LOOK_S", 0.01)
    with pytest.raises(Refusal) as refused:
        CASES[code](tmp_path)
    assert refused.value.code == code


def test_the_cases_are_the_whole_table() -> None:
    assert CASES.keys() | {code for _, code in REFUSED} == {code.value for code in Code}


def test_numbers_are_stable_apart_and_found_again() -> None:
    """A site and a server of different versions tell each other numbers: none may ever change its meaning."""
    known = {"site-failed": 101, "policy": 109, "budget": 110, "number": 117, "no-policy": 120, "ledger": 137, "server-key": 141}
    assert {name: Code(name).number for name in known} == known
    sent = [code for code in Code if code.number]
    assert len({code.number for code in sent}) == len(sent)
    assert min(code.number for code in sent) > 100  # Flower's own are below
    assert all(code_of(to_error(code)) == code for code in sent)
    with pytest.raises(ValueError, match="no-such-code"):
        Refusal("no-such-code")


WHERE: dict[str, By] = {
    "privacy/policy": "policy",
    "federation/site/budget.py": "budget",
    "federation/server": "server",
    "deployment/relay.py": "relay",
    "deployment": "daemon",
}


def test_who_raises_a_code_is_whom_the_table_names() -> None:
    """Read off the code: every literal in a Refusal, in a count of what was left out, or in a row of the policy's table."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        who = next((by for start, by in WHERE.items() if place.startswith(start)), None)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            literals: list[Any] = []
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal":
                literals = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "answers.rejected":
                literals = [node.slice.value] if isinstance(node.slice, ast.Constant) else []
            for name in (one for one in literals if isinstance(one, str)):
                found.setdefault(name, set()).add(who or "site or server")
    assert found.keys() <= {code.value for code in Code}
    for name, places in found.items():
        for who in places - {"site or server"}:
            assert who in Code(name).by, f"{name} is raised by the {who}"
