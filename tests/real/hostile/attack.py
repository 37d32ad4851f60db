"""Each kind of case against a daemon, by name: what the tests run one by one and the log counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mpssl_fed.config import Config
from mpssl_fed.deployment import wire
from mpssl_fed.privacy.plan import plan_for
from tests.federation.hostile_requests import REFUSED, written
from tests.real.hostile.corners import CORNERS, NOT_BUILT
from tests.real.hostile.crafted import LINEAR, NETWORK, RELEASES, beyond, unbounded
from tests.real.hostile.harmless import check
from tests.real.hostile.messages import ARRAYS, FIELDS, FRAMES, HTTP, TEXTS
from tests.real.hostile.mutations import mutations
from tests.real.hostile.orders import ORDERS, Step
from tests.real.hostile.target import CNN, Answer, Target, ask, body, config_of, honest_text, start

Attack = Callable[[Target], None]
History = dict[tuple[float, float], int]
TABLES = ("zeros", "one class certain", "the first image's pixels, saturated", "all magnitudes")


def refusals(arrays: wire.Arrays) -> Iterator[tuple[str, Attack]]:
    """Yield (name, attack) for all that costs a guarded site nothing; arrays: initial weights of its honest request."""
    text = honest_text()
    good = body(text, arrays, "guarded")
    fields = json.loads(text)

    def gets(code: str, sent: bytes) -> Attack:
        def attack(target: Target) -> None:
            answer = target.post(sent)
            assert (answer.status, answer.code) == (409, code)

        return attack

    def over_http(sent: bytes, status: int, code: str) -> Attack:
        def attack(target: Target) -> None:
            answer = target.raw(sent)
            assert (answer.status, answer.code) == (status, code)

        return attack

    for name, (edit, status, code) in HTTP.items():
        yield f"http: {name}", over_http(edit(good), status, code)
    for name, frame in FRAMES.items():
        yield f"frame: {name}", gets("malformed", frame(good))
    for name, (change, code) in ARRAYS.items():
        yield f"arrays: {name}", gets(code, body(text, change(arrays), "guarded"))
    for name, (header, code) in FIELDS.items():
        yield f"field: {name}", gets(code, body(text, arrays, "guarded", **header))
    for name, (config, code) in TEXTS.items():
        yield f"text: {name}", gets(code, body(config, arrays, "guarded"))
    for changes, code in REFUSED:
        yield f"key: {changes}"[:100], gets(code, body(written(fields, changes), arrays, "guarded"))


def accepted() -> Iterator[tuple[str, Attack]]:
    """Yield (name, attack) for what a generous site takes or finds out too late: paid for, and no more than noise."""
    for name, changes in CORNERS.items():
        yield f"corner: {name}", _corner(f"corner{name}", changes)
    for name, (changes, code) in NOT_BUILT.items():
        yield f"not built: {name}", _not_built(changes, code)
    for kind, edits, changes in (("linear", LINEAR, {}), ("network", NETWORK, CNN)):
        for name, edit in edits.items():
            yield f"weights, {kind}: {name}", _crafted(f"{kind}{name}", changes, edit)
    for name in TABLES:
        yield f"weights of a table: {name}", _table(name)
    for name in RELEASES:
        yield f"weights of the releases' tests: {name}", _unbounded(name)
    for name in ORDERS:
        yield f"order: {name}", _order(name)


def randomly(target: Target, seed: int, count: int) -> None:
    """Send seeded mutations: whatever they are, each is refused by a code of the protocol's, or paid for and harmless."""
    for name, sent, config in mutations(np.random.default_rng(seed), count, target.images):
        answer = target.post(sent)
        assert answer.code != "site-failed", name
        if answer.taken:
            arrays, _ = wire.unpack(sent, "request")
            check(target, config(), arrays, answer)


def run_id(name: str) -> str:
    """Return a run's id that tells its case."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)[-50:].strip("_") or "run"


def charged(target: Target, config: Config, number: int, first: bool) -> History:
    """Return what round ``number`` costs a site; first: it holds no state of the run."""
    plan = plan_for(config, public_size=int(target.policy["public_size"]), unit="image")
    return plan.round_history(number, first)


def _paid(target: Target, run: str, changes: Mapping[str, Any], arrays: wire.Arrays) -> None:
    """Send a first round that is paid for: it is taken, or its result is beyond what leaves; there is no third."""
    config, text = config_of(changes)
    with target.spends(charged(target, config, 1, True)):
        answer = target.post(body(text, arrays, run))
    if answer.taken:
        check(target, config, arrays, answer)
    else:
        assert answer.code in ("too-large", "non-finite")


def _table(name: str) -> Attack:
    """Ask for the table of crafted weights: paid for, once, and no more than noise and what the images can add."""

    def attack(target: Target) -> None:
        config, text = config_of({"federation.evaluate_at_sites.times": 1})
        plan = plan_for(config, public_size=int(target.policy["public_size"]), unit="image")
        sent = body(text, LINEAR[name](start({}), target.images), run_id(f"table{name}"))
        with target.spends(plan.evaluation_history(1)):
            answer = target.post(sent, wire.EVALUATE)
        assert set(answer.arrays) == {"confusion"}
        assert answer.metrics == {"noise-std": plan.sigma_confusion}
        assert plan.sigma_confusion is not None
        rms = target.note("table", float(np.sqrt(np.mean(answer.arrays["confusion"] ** 2))) / plan.sigma_confusion)
        assert 0.6 < rms < 1.4 + len(target.images) / plan.sigma_confusion
        with target.spends({}):
            assert np.array_equal(target.post(sent, wire.EVALUATE).arrays["confusion"], answer.arrays["confusion"])
            assert target.post(body(text, start({}), run_id(f"table{name}")), wire.EVALUATE).code == "plan"

    return attack


def _corner(name: str, changes: Mapping[str, Any]) -> Attack:
    return lambda target: _paid(target, run_id(name), changes, start(changes))


def _crafted(name: str, changes: Mapping[str, Any], edit: Callable[[wire.Arrays, np.ndarray], wire.Arrays]) -> Attack:
    return lambda target: _paid(target, run_id(name), changes, edit(start(changes), target.images))


def _not_built(changes: Mapping[str, Any], code: str) -> Attack:
    def attack(target: Target) -> None:
        with target.spends({}):
            answer = target.post(ask("notbuilt", changes, arrays=start({"model.name": changes.get("model.name", "pixels")})))
        assert (answer.status, answer.code) == (409, code)

    return attack


def _unbounded(name: str) -> Attack:
    def attack(target: Target) -> None:
        changes, arrays = unbounded(RELEASES[name])
        if not beyond(arrays):
            _paid(target, run_id(name), changes, arrays)
            return
        with target.spends({}):
            answer = target.post(ask("unbounded", changes, arrays=arrays))
        assert answer.code in ("too-large", "non-finite")

    return attack


def _order(name: str) -> Attack:
    def attack(target: Target) -> None:
        base, steps = ORDERS[name]
        answers: list[Answer] = []
        begun: set[str] = set()
        for step in steps:
            run = run_id(f"order{name}") + step.run
            answers.append(_step(target, run, base, step, first=run not in begun))
            begun |= {run} if step.pays else set()
            if step.same_as is not None:
                before = answers[step.same_as]
                assert before.metrics == answers[-1].metrics
                assert all(np.array_equal(before.arrays[key], answers[-1].arrays[key]) for key in before.arrays)

    return attack


def _step(target: Target, run: str, base: Mapping[str, Any], step: Step, first: bool) -> Answer:
    changes = {**base, **step.changes}
    arrays = {key: value + np.float32(step.moved) for key, value in start(changes if step.code == "misshapen" else base).items()}
    if step.pays:
        config, _ = config_of(changes)
        cost: History | Counter[Any] = charged(target, config, step.number, first)
    else:
        cost = {}
    with target.spends(cost):
        answer = target.post(ask(run, changes, step.number, start(base) if step.code == "misshapen" else arrays))
    assert answer.code == step.code
    if answer.taken:
        check(target, config_of(changes)[0], arrays, answer)
    return answer
