"""Workers that add up what they trained: the bits of one process, and nothing in a sum that the round did not count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, MessageType
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines import pipes
from mpssl_fed.federation.engines.workers import MOST_AHEAD, WorkerGrid
from mpssl_fed.federation.messages import EXAMPLES, Handed, SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.server.reading import Kept, Reader, opener
from mpssl_fed.federation.server.strategy import Aggregator
from mpssl_fed.federation.weights import to_record
from mpssl_fed.models import Block
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import tiny_config
from tests.patience import PATIENCE_S, wait_for

SITES = 40
CONFIG = tiny_config(f"federation.sites={SITES}", "data.partition={name: iid}")
START = Block.of(parts.initial_classifier(CONFIG).shared_state())
Runner = Callable[..., RunDirectory]


def trained(node: int) -> Block:
    """Return what the site at ``node`` answers."""
    rng = torch.Generator().manual_seed(node)
    return Block(START.layout, START.flat + torch.randn(START.layout.size, generator=rng) / 100)


def site(message: Message, context: Context) -> Message:
    """Answer at once; node 7 is no site that anybody can use, and node 9 says what no reply may say."""
    weights = trained(context.node_id)
    if context.node_id == 7:
        weights.flat[3] = float("nan")
    size = 0.5 if context.node_id == 9 else float(context.node_id)
    return Message(Handed(TrainReply(weights, {EXAMPLES: size})), reply_to=message)


class Rounds:
    """A grid of two workers, asked as a round asks."""

    def __init__(self, client: Any = site) -> None:
        self.grid = WorkerGrid(client, [{"partition-id": n} for n in range(SITES)], workers=2, opens=opener(CONFIG))

    def ask(self, nodes: list[int], ttl: float = PATIENCE_S, kind: str = MessageType.TRAIN) -> dict[int, str]:
        self.reader = Reader(START, CONFIG.federation.max_examples, Aggregator(CONFIG.federation).open(START))
        content = TrainRequest(SentConfig.of("run", CONFIG), 1, to_record(START)).to_record()
        messages = [Message(content, node, kind, ttl=ttl) for node in nodes]
        return dict(zip(nodes, self.grid.push_messages(messages), strict=True))

    def answer(self, number: str) -> Message:
        found: list[Message] = []

        def pulled() -> bool:
            found.extend(self.grid.pull_messages([number]))
            return bool(found)

        wait_for(pulled, "an answer")
        return found[0]

    def mean(self) -> np.ndarray:
        for sums in self.grid.sums():
            self.reader.take_sums(sums)
        assert self.reader.fold._running is not None
        return self.reader.fold._running.mean()


@pytest.fixture
def rounds() -> Iterator[Rounds]:
    made = Rounds()
    yield made
    made.grid.end()


def exact(nodes: list[int], entries: slice) -> list[float]:
    rows = [(trained(node).flat[entries].double().tolist(), node) for node in nodes]
    total = sum(nodes)
    return [float(sum(Fraction(row[i]) * node for row, node in rows) / total) for i in range(len(rows[0][0]))]


def test_what_was_counted_is_in_the_mean_and_nothing_else(rounds: Rounds) -> None:
    """As a server does at its deadline: it has pulled answers that it does not count."""
    nodes = [*range(1, 7), 8, *range(10, SITES + 1)]
    counted = [node for node in nodes if node % 5]
    for _ in range(2):  # nothing of the first round is left in the second
        numbers = rounds.ask(nodes)
        answers = {node: rounds.answer(number) for node, number in numbers.items()}
        assert all(isinstance(one.content, Kept) for one in answers.values()), "weights stay where they were trained"
        for node in counted:
            assert rounds.reader(answers[node].content) == TrainReply({}, {EXAMPLES: float(node)})
        mean = rounds.mean()
        assert np.allclose(mean[:50], exact(counted, slice(0, 50)), rtol=3e-16, atol=0)
        assert np.allclose(mean[-50:], exact(counted, slice(-50, None)), rtol=3e-16, atol=0)


def test_a_reply_that_cannot_be_used_comes_whole_and_is_refused_by_its_code(rounds: Rounds) -> None:
    numbers = rounds.ask([7, 8, 9])
    for node, code in ((7, "non-finite"), (9, "size")):
        with pytest.raises(Refusal) as refused:
            rounds.reader(rounds.answer(numbers[node]).content)
        assert refused.value.code == code
    rounds.reader(rounds.answer(numbers[8]).content)
    assert np.array_equal(rounds.mean(), trained(8).flat.double().numpy())


def test_an_answer_that_comes_after_the_sum_is_in_no_later_one() -> None:
    def slow(message: Message, context: Context) -> Message:
        if context.node_id == 3 and message.metadata.ttl < PATIENCE_S:
            time.sleep(600)  # until it is told to drop it
        return site(message, context)

    rounds = Rounds(slow)
    try:
        numbers = rounds.ask([1, 2, 3, 4, 5], ttl=PATIENCE_S - 1)
        for node in (1, 2, 4):
            rounds.reader(rounds.answer(numbers[node]).content)
        assert np.allclose(rounds.mean()[:50], exact([1, 2, 4], slice(0, 50)), rtol=3e-16, atol=0)
        numbers = rounds.ask([1, 3, 5])
        for number in numbers.values():
            rounds.reader(rounds.answer(number).content)
        assert np.allclose(rounds.mean()[:50], exact([1, 3, 5], slice(0, 50)), rtol=3e-16, atol=0)
    finally:
        rounds.grid.interrupt()
        rounds.grid.end()


def test_an_answer_does_not_wait_for_the_next_site() -> None:
    def slow(message: Message, context: Context) -> Message:
        if context.node_id == 3:
            time.sleep(600)
        return site(message, context)

    rounds = Rounds(slow)
    try:
        numbers = rounds.ask([1, 3])
        assert isinstance(rounds.answer(numbers[1]).content, Kept)
    finally:
        rounds.grid.interrupt()
        rounds.grid.end()


def test_whole_answers_come_as_they_were_sent_however_slow_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an evaluation, and replies that are refused: they lie in shared memory until they are taken."""
    monkeypatch.setattr(pipes, "TOGETHER_S", 0.0)  # each apart

    def large(message: Message, context: Context) -> Message:
        weights = Block(START.layout, torch.full((START.layout.size,), float(context.node_id)))
        weights.flat[0] = float("nan")
        metrics = {EXAMPLES: float(context.node_id)}
        return Message(Handed(TrainReply(weights, metrics)), reply_to=message)

    rounds = Rounds(large)
    try:
        for kind in (MessageType.EVALUATE, MessageType.TRAIN):
            numbers = rounds.ask(list(range(1, SITES + 1)), kind=kind)
            time.sleep(0.5)
            for node, number in numbers.items():
                content = rounds.answer(number).content
                assert isinstance(content, Handed)
                assert content.reply is not None
                assert content.reply.weights["head.bias"].tolist()[-1] == node == content.reply.examples
    finally:
        rounds.grid.end()


def test_a_round_that_nobody_summed_leaves_nothing(rounds: Rounds) -> None:
    """One in which too few sites answered."""
    for number in rounds.ask([1, 2]).values():
        rounds.reader(rounds.answer(number).content)
    numbers = rounds.ask([3, 4])
    for number in numbers.values():
        rounds.reader(rounds.answer(number).content)
    assert np.allclose(rounds.mean()[:50], exact([3, 4], slice(0, 50)), rtol=3e-16, atol=0)


def test_a_worker_that_is_left_out_of_the_next_round_forgets_the_one_before(rounds: Rounds) -> None:
    """Nobody summed that; nodes of one parity are at one worker."""
    for number in rounds.ask([1, 2, 3, 4]).values():
        rounds.reader(rounds.answer(number).content)
    for number in rounds.ask([6, 8]).values():
        rounds.reader(rounds.answer(number).content)
    assert np.allclose(rounds.mean()[:50], exact([6, 8], slice(0, 50)), rtol=3e-16, atol=0)


def test_a_worker_is_asked_for_no_more_at_once_than_it_may_keep(rounds: Rounds) -> None:
    rounds.ask(list(range(1, SITES + 1)))
    assert [len(worker.at_work) for worker in rounds.grid._workers] == [min(SITES // 2, MOST_AHEAD)] * 2


@pytest.mark.parametrize(
    "words",
    [
        ("federation.weighting=equal",),
        ("federation.strategy={name: fedadam, norm_bound: 0.5}",),
        ("federation.strategy={name: fedavgm, server_momentum: 0.9}", "optim.lr=3"),  # some sites diverge
        ("federation.strategy={name: fedmedian}",),
    ],
)
def test_whatever_the_mean_is_of_it_has_the_bits_of_one_process(words: tuple[str, ...], run_tiny: Runner, tmp_path: Path) -> None:
    many = ("federation.sites=9", "federation.rounds=2", "data.partition={name: iid}", "data.labels_per_class=9", *words)
    one, other = (run_tiny(*many, f"federation.workers={n}", folder=tmp_path / str(n)) for n in (1, 2))
    first, second = load_file(one.folder / "model.safetensors"), load_file(other.folder / "model.safetensors")
    assert all(first[key].equal(second[key]) for key in first)
    told = [[(r.accuracy, r.train_loss, r.answered, r.rejected) for r in read_history(run.folder)] for run in (one, other)]
    assert told[0] == told[1]


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_a_round_of_too_few_ends_for_workers_too(strategy: str, run_tiny: Runner) -> None:
    """A worker at work for it heard nothing of the next one, whose mean took in what it had kept: with a ledger no checkpoint of
    the sites comes between them."""

    def late(message: Message, context: Context) -> Message:
        if message.metadata.message_type == MessageType.TRAIN and message.content.config_records["config"]["round"] == 1:
            if context.node_id in (2, 4):
                raise RuntimeError("boom")
            if context.node_id == 3:
                time.sleep(600)  # until it is told to drop it
        return app(message, context)

    words = ("federation.sites=4", "federation.min_sites=2", "federation.deadline_s=8", f"federation.strategy={{name: {strategy}}}")
    private = ("privacy.epsilon=8", "privacy.public_size=100", "privacy.delta=1e-4", "privacy.sample_rate=0.1")
    run = run_tiny(*words, *private, "federation.workers=2", client=late)
    assert [(r.answered, r.failed) for r in read_history(run.folder)[1:]] == [(1, True), (4, False)]


def test_sites_that_the_app_answers_for_are_added_up_too(run_tiny: Runner, tmp_path: Path) -> None:
    """The app of the project hands its reply over; one that packs it, as over a wire, ends in the same bits."""

    def packed(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if isinstance(reply.content, Handed):
            dict(reply.content)
            assert reply.content.reply is None
        return reply

    words = ("federation.workers=2", "federation.rounds=1")
    runs = [run_tiny(*words, client=client, folder=tmp_path / client.__class__.__name__) for client in (app, packed)]
    first, second = (load_file(run.folder / "model.safetensors") for run in runs)
    assert all(first[key].equal(second[key]) for key in first)
