"""Privacy where it counts, at a site's round: planned is spent, spent is on disk first, and beyond that there is only a code."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines.simulation import preflight, simulate
from mpssl_fed.federation.messages import EXAMPLES, SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.parts import task_of
from mpssl_fed.federation.refusal import Refusal, to_error
from mpssl_fed.federation.site.budget import simulated_budget
from mpssl_fed.federation.site.client import answer_request
from mpssl_fed.federation.site.site import Site
from mpssl_fed.federation.weights import to_record
from mpssl_fed.models import Weights
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.ledger import Ledger, Row
from mpssl_fed.privacy.noise import SecureNoise, Tape
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from tests.federation.conftest import tiny_config
from tests.patience import wait_for

MP_SSL = "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 2, refresh_every: 1, buffer: 1, warmup: 0.0}"
PRIVACY = "privacy={epsilon: 8, delta: 1.0e-4, public_size: 50, sample_rate: 1.0}"  # q 1 is priced in no time
CLOCKS = ("train_s", "generate_s", "serialise_s")
Runner = Callable[..., RunDirectory]


def private_config(*overrides: str) -> Config:
    return tiny_config(MP_SSL, PRIVACY, *overrides)


def ask(config: Config, number: int, weights: Weights | None = None, run: str = "run1") -> TrainRequest:
    start = parts.initial_classifier(config).shared_state() if weights is None else weights
    return TrainRequest(SentConfig.of(run, config), number, to_record(start))


def moved(weights: Weights, by: float = 0.01) -> Weights:
    return {key: value + by for key, value in weights.items()}


def rows(folder: Path) -> list[Row]:
    return Ledger(folder / "ledger.sqlite").rows()


def history(folder: Path) -> dict[tuple[float, float], int]:
    return Ledger(folder / "ledger.sqlite").spent("mnist-5k").history


def test_what_was_planned_is_what_was_spent(run_tiny: Runner) -> None:
    run = run_tiny(MP_SSL, PRIVACY)
    plan = plan_for(run.config)
    assert len(plan.history()) == 2, "(a) and (b) share sigma and q, (c) has its own"
    assert 0.97 * 8 < plan.price() <= 8
    for site in ("0", "1", "2"):
        ledger = Ledger(run.sites / site / "ledger.sqlite")
        assert ledger.simulated
        spent = ledger.spent("mnist-5k")
        assert spent.history == plan.history() == spent.runs[run.run_id].planned
        assert accounting.epsilon(spent.history, plan.delta) == pytest.approx(plan.price(), abs=1e-9)
        assert not spent.unaccounted
        assert spent.runs[run.run_id].commitment == plan.commitment()
        kinds = [row.kind for row in ledger.rows()]
        assert kinds == ["created", "records", "run", "reserve", "reserve"]
    assert [(record.answered, record.rejected) for record in read_history(run.folder)[1:]] == [(3, {})] * 2
    assert all(record.train_loss is None for record in read_history(run.folder)), "a private loss reached the server"


def test_a_reply_weighs_the_declared_size_and_tells_no_loss(tmp_path: Path) -> None:
    reply = answer_request(Site(0, tmp_path), ask(private_config(), 1))
    assert reply.metrics[EXAMPLES] == 50
    assert set(reply.metrics) == {EXAMPLES, "unsupervised", "gap", "generated", *CLOCKS}


def test_the_same_message_is_free_and_other_weights_are_charged_anew(tmp_path: Path) -> None:
    config = private_config()
    site, plan = Site(0, tmp_path), plan_for(config)
    first = answer_request(site, ask(config, 1))
    before = rows(tmp_path)
    again = answer_request(site, ask(config, 1))
    assert rows(tmp_path) == before
    assert all(torch.equal(first.weights[key], again.weights[key]) for key in first.weights)

    answer_request(site, ask(config, 1, moved(first.weights)))
    assert history(tmp_path) == {key: 2 * n for key, n in plan.round_history(1).items()} == plan.history()
    with pytest.raises(Refusal, match="plan"):  # two rounds were planned, two were taken
        answer_request(site, ask(config, 2, first.weights))
    assert history(tmp_path) == plan.history()


def test_pseudo_labels_are_released_once_a_run_whatever_is_asked_again(tmp_path: Path) -> None:
    config = private_config("method={name: p-ssl, batch: 4, buffer: 1}", "federation.rounds=3")
    site, plan = Site(0, tmp_path), plan_for(config)
    first = answer_request(site, ask(config, 1))
    assert history(tmp_path) == plan.round_history(1)
    other = answer_request(site, ask(config, 1, moved(first.weights)))
    answer_request(site, ask(config, 2, other.weights))
    assert history(tmp_path) == plan.history()
    assert plan.sigma_pseudo_label is not None
    assert history(tmp_path)[plan.sigma_pseudo_label, 1.0] == 1


@pytest.mark.parametrize("number", [0, 3])
def test_a_round_outside_the_plan_is_refused_before_any_read(tmp_path: Path, number: int) -> None:
    with pytest.raises(Refusal, match="plan"):
        answer_request(Site(0, tmp_path), ask(private_config(), number))
    assert not (tmp_path / "ledger.sqlite").exists() or history(tmp_path) == {}


def test_a_plan_changed_in_the_middle_of_a_run_is_refused(tmp_path: Path) -> None:
    site, config = Site(0, tmp_path), private_config()
    answer_request(site, ask(config, 1))
    with pytest.raises(Refusal, match="plan"):
        answer_request(site, ask(private_config("privacy.epsilon=9"), 2))
    assert history(tmp_path) == plan_for(config).round_history(1)


def test_a_spent_budget_is_refused_by_code_and_the_round_goes_on(tmp_path: Path) -> None:
    config = private_config()
    run = open_run(config, tmp_path / "run")
    answer_request(Site(1, run.sites / "1"), ask(config, 1, run="earlier"))
    preflight(run.config)
    simulate(run, lambda: app, Progress())
    for record in read_history(run.folder)[1:]:
        assert (record.asked, record.answered, record.rejected) == (3, 2, {"budget": 1})
    assert set(Ledger(run.sites / "1" / "ledger.sqlite").spent("mnist-5k").runs) == {"earlier"}
    start = parts.initial_classifier(config).shared_state()
    assert any(not value.equal(start[key]) for key, value in load_file(run.folder / "model.safetensors").items() if key in start)


def test_a_ledger_that_was_changed_stops_the_site_by_code(tmp_path: Path) -> None:
    site, config = Site(0, tmp_path), private_config()
    first = answer_request(site, ask(config, 1))
    files = Ledger(tmp_path / "ledger.sqlite").files
    files.head.unlink()
    with pytest.raises(Refusal, match="ledger"):
        answer_request(site, ask(config, 2, first.weights))


def test_labelled_step_is_on_record_as_unaccounted_before_its_first_read(tmp_path: Path) -> None:
    config = private_config("privacy.scope=labelled-step")
    answer_request(Site(0, tmp_path), ask(config, 1))
    kinds = [row.kind for row in rows(tmp_path)]
    assert kinds == ["created", "records", "unaccounted", "run", "reserve"]
    spent = Ledger(tmp_path / "ledger.sqlite").spent("mnist-5k")
    assert spent.unaccounted
    assert spent.history == plan_for(config).round_history(1)
    with pytest.raises(Refusal, match="budget"):  # no end-to-end promise can be made about this data any more
        answer_request(Site(0, tmp_path), ask(private_config(), 1, run="run2"))


class Logged(SecureNoise):
    """Secure noise that writes each release down, outside the ledger, as it happens."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def add(self, total: np.ndarray, std: float) -> np.ndarray:
        with open(self.path, "a", encoding="ascii") as log:
            log.write(f"{std!r}\n")
        return super().add(total, std)


def killed_config(kills: int) -> Config:
    """Return a run that is long enough to be in training at each of its kills."""
    return tiny_config(MP_SSL, PRIVACY, "federation.sites=2", f"federation.rounds={4 + 6 * kills}")


def logging_client(folder: Path) -> Callable[[Message, Context], Message]:
    """Return the client of a run whose sites log their releases under ``folder``."""

    def client(message: Message, context: Context) -> Message:
        if message.metadata.message_type != "train":
            return app(message, context)
        partition = int(str(context.node_config["partition-id"]))
        site = Site(partition, Path(str(context.node_config["state-dir"])) / str(partition), Logged(folder / f"{partition}.log"))
        try:
            reply = answer_request(site, TrainRequest.from_record(message.content))
        except Refusal as refusal:
            return Message(to_error(refusal.code), reply_to=message)
        return Message(reply.to_record(), reply_to=message)

    return client


def _child(folder: str, kills: int) -> None:
    config = killed_config(kills)
    preflight(config)
    run = open_run(config, Path(folder) / "run", resume=True)
    (Path(folder) / "started").touch()
    simulate(run, lambda: logging_client(Path(folder)), Progress())  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_during_training_the_ledger_never_counts_too_little(tmp_path: Path, kills: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pytorch_pretrained_biggan"])
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw, plan = random.Random(seed), plan_for(killed_config(kills))
    std = {one.std: (one.sigma, one.q) for one in plan.mechanisms().values()}
    for k in range(kills + 1):
        child = context.Process(target=_child, args=(str(tmp_path), kills))
        child.start()
        wait_for(lambda: (tmp_path / "started").exists() or not child.is_alive(), "the child's start")  # noqa: B023
        if k < kills:
            time.sleep(draw.uniform(0, 0.5))
            child.kill()
        child.join()
        assert k == kills or child.exitcode == -signal.SIGKILL, "it ended before its kill"
        (tmp_path / "started").unlink(missing_ok=True)
        for site in ("0", "1"):
            log, ledger = tmp_path / f"{site}.log", Ledger(tmp_path / "run" / "sites" / site / "ledger.sqlite")
            released = Counter(std[float(word)] for word in log.read_text("ascii").split()) if log.exists() else Counter()
            if ledger.files.absent:
                assert not released
                continue
            ledger.verify()
            spent = ledger.spent("mnist-5k").history
            assert all(spent.get(key, 0) >= n for key, n in released.items()), f"kill {k}: {released} released, {spent} spent"
            assert all(n <= plan.history()[key] for key, n in spent.items())
    if kills <= 3:
        assert child.exitcode == 0
        left_out: Counter[str] = Counter()
        for record in read_history(tmp_path / "run"):
            left_out.update(record.rejected)
        assert set(left_out) <= {"plan"}, "a round lost to a kill is paid for; the plan's last ones are then refused"


@dataclass
class Trace:
    """What a site's run leaves behind: replies, latents, ledger rows without the owner's record of her own units, epsilon."""

    replies: list[TrainReply]
    state: dict[str, torch.Tensor]
    ledger: list[tuple[Any, ...]]
    epsilon: float

    def same(self, other: Trace) -> dict[str, bool]:
        def tensors(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
            return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)

        pairs = list(zip(self.replies, other.replies, strict=True))
        timeless = [[{k: v for k, v in r.metrics.items() if k not in CLOCKS} for r in t.replies] for t in (self, other)]
        return {
            "weights": all(tensors(one.weights, two.weights) for one, two in pairs),
            "messages": timeless[0] == timeless[1],
            "latents": tensors(self.state, other.state),
            "ledger": self.ledger == other.ledger,
            "epsilon": self.epsilon == other.epsilon,
        }


def one_site(folder: Path, images: Images, noise: Any, *overrides: str) -> Trace:
    """Return what two rounds of a site with these images leave behind, whatever data set its config names."""
    config = private_config(*overrides)
    config = config.model_copy(update={"data": config.data.model_copy(update={"task": task_of(parts.dataset(config))})})
    site, replies, weights = Site(0, folder, noise), [], None
    for number in (1, 2):
        mine, budget = parts.own(config, images, parts.generator(config)), simulated_budget(config, folder)
        replies.append(site.train_round("run1", number, config, ask(config, number, weights).weights, mine, budget))
        weights = replies[-1].weights
    stored = load_file(next(folder.glob("run1-000002.safetensors")))
    state = {key: value for key, value in stored.items() if key.startswith(("before/", "after/"))}
    ledger = [(row.kind, row.run, row.round, row.body) for row in rows(folder) if row.kind != "records"]
    return Trace(replies, state, ledger, accounting.epsilon(history(folder), config.privacy.delta))


@pytest.mark.parametrize("method", ["mp-ssl", "p-ssl", "base"])
def test_with_the_releases_replayed_nothing_else_of_the_data_comes_out(tmp_path: Path, method: str) -> None:
    more = () if method == "mp-ssl" else (f"method={{name: {method}, batch: 4, buffer: 1}}",)
    pool = parts.dataset(tiny_config()).train
    mine = pool.take(range(40))
    others = pool.take(range(2000, 2075))
    others = others.take(torch.nonzero(others.y != 3).flatten())  # another size, a class missing
    assert len(others) not in (0, 40)

    tape = Tape()
    first = one_site(tmp_path / "mine", mine, tape, *more)
    replayed = one_site(tmp_path / "others", others, Tape(releases=tape.releases), *more)
    assert all(first.same(replayed).values()), first.same(replayed)

    free = one_site(tmp_path / "free", others, None, *more)
    assert not first.same(free)["weights"]
    assert first.same(free)["ledger"]
    assert first.same(free)["epsilon"]


@pytest.mark.parametrize("which", ["empty", "one image", "one class", "no class 3"])
def test_sites_short_of_images_answer_like_any_other(tmp_path: Path, which: str) -> None:
    pool = parts.dataset(tiny_config()).train
    index = {
        "empty": [],
        "one image": [7],
        "one class": torch.nonzero(pool.y == 1).flatten()[:20].tolist(),
        "no class 3": torch.nonzero(pool.y != 3).flatten()[:20].tolist(),
    }[which]
    trace = one_site(tmp_path, pool.take(index), None)
    assert all(bool(value.isfinite().all()) for reply in trace.replies for value in reply.weights.values())
    assert history(tmp_path) == plan_for(private_config()).history()
    assert {reply.metrics[EXAMPLES] for reply in trace.replies} == {50.0}


def test_a_simulation_with_an_empty_site_runs_under_privacy(run_tiny: Runner) -> None:
    skewed = "data={labels_per_class: 1, labels_over: all-sites, partition: {name: dirichlet, alpha: 0.02, min_per_site: 0}}"
    run = run_tiny(MP_SSL, PRIVACY, skewed, "federation.sites=8", "federation.rounds=1")
    assert min(len(share) for share in parts.shares(run.config)) == 0, "no site is empty: the test would prove nothing"
    assert read_history(run.folder)[1].answered == 8
