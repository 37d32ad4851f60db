"""The server's round loop: ask sites, leave out what cannot be used, step, evaluate, checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from flwr.app import MessageType
from flwr.serverapp import Grid
from torch import Tensor

from mpssl_fed.codes import Code
from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.server.at_sites import AtSites
from mpssl_fed.federation.server.collect import Answers, Roster, ask
from mpssl_fed.federation.server.evaluate import clinical, evaluate, guessing, test_images
from mpssl_fed.federation.server.reading import Reader, SumsAtNodes
from mpssl_fed.federation.server.saving import Hold, Saving
from mpssl_fed.federation.server.shared_step import Unmasked
from mpssl_fed.federation.server.strategy import Aggregator
from mpssl_fed.federation.server.summing import Summing
from mpssl_fed.federation.server.warm import start_warm
from mpssl_fed.federation.weights import to_record, usable
from mpssl_fed.method.warm_start import taught
from mpssl_fed.metrics import Metrics
from mpssl_fed.models import Block, Weights
from mpssl_fed.models.scores import Scores
from mpssl_fed.runs.checkpoint import Checkpoint
from mpssl_fed.runs.manifest import now
from mpssl_fed.runs.progress import Progress, RoundSteps
from mpssl_fed.runs.rounds import History, Round
from mpssl_fed.runs.run_directory import RunDirectory
from mpssl_fed.runs.tracking import tracking
from mpssl_fed.seeds import numpy_rng
from mpssl_fed.watch import watched_by

SILENT_ROUNDS = 3
"""A run in which so many first rounds brought no answer at all is given up."""


@dataclass
class Job:
    """One run to be served: what, where it is written, who watches, and how it is told to stop."""

    run: RunDirectory
    progress: Progress = field(default_factory=Progress)
    stop: threading.Event = field(default_factory=threading.Event)
    expected_sites: int | None = None
    travels: Config | None = None
    """What sites get to see of the config, where that is not all of it."""
    hold: Hold | None = None
    """What the sites of a simulation have not written yet."""


def serve(grid: Grid, job: Job) -> None:
    """Run all rounds of ``job`` that its run directory does not hold yet, then write the trained model.

    Raises UserError when too few sites join in time, when no site ever answered, or when the disk is full.
    """
    config, run = job.run.config, job.run
    torch.set_num_threads(config.runtime.threads)
    server, saving = _Server(grid, job, config), Saving(run, job.hold)
    job.progress.start(config, str(run.folder))
    if config.privacy.idle():
        job.progress.note(config.privacy.idle())
    try:
        run.update_manifest(held_out=guessing(server.test))
        state = run.checkpoint() or server.begin()
        run.write_metrics(state.history)
        with tracking(run, state.history, job.progress.note) as track:
            for number in range(state.round + 1, config.private_rounds + 1):
                state = server.round(number, state)
                saving.after(state)
                job.progress.round(state.history[-1])
                track(state.history[-1])
                _give_up_if_silent(state.history)
        saving.now()
        if config.private_rounds and not any(one.answered for one in state.history):
            raise UserError(_silence(state.history))
        server.classifier.load_shared(state.weights)
        run.write_model(server.classifier, parts.preparation(config))
        run.write_evaluation(server.metrics(state))
        run.update_manifest(
            status="finished", finished=now(), timings=total_timings(state.history), result=state.history[-1].to_json()
        )
    except BaseException as error:
        saving.last_words()
        run.last_words(status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    finally:
        job.progress.end()


def total_timings(history: History) -> dict[str, float]:
    """Return the seconds of each kind of work, summed over rounds (and over sites, where sites did it)."""
    total: dict[str, float] = {}
    for one in history:
        for key, seconds in one.timings.items():
            total[key] = total.get(key, 0.0) + seconds
    return total


class _Server:
    def __init__(self, grid: Grid, job: Job, config: Config) -> None:
        self.config, self.job, self.grid = config, job, grid
        self.aggregator = Aggregator(config.federation)
        self.classifier = parts.initial_classifier(config)
        self.test = test_images(config)
        self.plan = SentConfig.of(job.run.run_id, job.travels or config)
        self.roster = Roster(grid, job.progress.note)
        self.at_sites = AtSites(config, self.classifier.classes, self.plan, job.progress, job.stop)
        self.summing: Summing | Unmasked | None = None
        if config.federation.aggregation == "secure":
            file = job.run.folder / "checkpoints" / "secure.json"
            if config.federation.secure.masks:
                self.summing = Summing(grid, config, self.plan, file, job.progress, job.stop)
            else:
                self.summing = Unmasked(grid, config, self.plan, job.progress, job.stop)
        self.joined = False
        self.seen: tuple[int, Tensor | None] | None = None  # round and logits of the last evaluation

    def begin(self) -> Checkpoint:
        """Return and save the state before round 1."""
        start = time.perf_counter()
        generator = parts.generator(self.config)
        if generator is not None:
            self.job.run.update_manifest(generator={"name": self.config.generator.name, "sha256": generator.state_hash()})
            self._warm_start(taught(self.config.warm_start, generator.classes, self.classifier.classes))
        found = self._evaluate(0)
        spent = time.perf_counter() - start
        record = Round(0, seconds=spent, timings=_timings([], evaluate=spent), **self._told(found))
        state = Checkpoint(self.job.run.run_id, 0, self.classifier.shared_state(), {}, [record])
        self.job.run.save(state)
        self.job.progress.round(record)
        return state

    def _warm_start(self, part: str) -> None:
        if part == "none":
            return
        self.job.progress.note(f"warm start of {part} from {self.config.generator.name}, {self.config.warm_start.steps} steps")
        with watched_by(lambda what, done, total: self.job.progress.step(f"warm start, {what}", done, total)):
            start_warm(self.config, self.classifier)

    def round(self, number: int, state: Checkpoint) -> Checkpoint:
        """Return the state after round ``number``.

        The weights stay, and the round counts as failed, where too few answered or no site could take what came out.
        """
        federation = self.config.federation
        self.aggregator.load_state(state.strategy)
        nodes, taken = self._nodes(), self.roster.pretenders
        start = time.perf_counter()
        asked = self._sample(number, list(nodes))
        gathered = (self._summed if self.summing else self._gathered)(number, state.weights, nodes, asked)
        answers, replies, weights = gathered.answers, gathered.replies, gathered.weights
        failed = weights is None or not usable(weights)
        if weights is None or failed:  # what a reply did to the strategy's state goes with it
            weights, self.aggregator = state.weights, Aggregator(federation)
            self.aggregator.load_state(state.strategy)
        aggregated = time.perf_counter()
        if number % federation.eval_every and number != federation.rounds:
            found = Scores()
        else:
            self.classifier.load_shared(weights)
            found = self._evaluate(number)
        told = self.at_sites.after(number, weights, self.grid, nodes)
        ended = time.perf_counter()
        timings = _timings(
            replies, serialise=gathered.packing, aggregate=aggregated - gathered.collected, evaluate=ended - aggregated
        )
        if taken:
            answers.rejected["number-taken"] = taken
        record = Round(
            number,
            train_loss=_mean_loss(replies),
            seconds=ended - start,
            asked=len(asked),
            answered=len(answers.good),
            missing=answers.missing,
            rejected=dict(sorted(answers.rejected.items())),
            generated=_generated(replies),
            timings=timings,
            failed=failed,
            at_sites=told,
            **self._told(found),
        )
        return Checkpoint(state.run_id, number, weights, self.aggregator.state(), [*state.history, record])

    def _gathered(self, number: int, start: Weights, nodes: Mapping[int, int], asked: Sequence[int]) -> _Gathered:
        """Ask for a round and put its replies together."""
        began, federation, start = time.perf_counter(), self.config.federation, Block.of(start)
        content = TrainRequest(self.plan, number, to_record(start)).to_record()
        packed = time.perf_counter() - began
        fold = self.aggregator.open(start)
        reader = Reader(start, federation.max_examples, fold)
        contents = {site: (nodes[site], content) for site in asked}
        shown = RoundSteps(self.job.progress, number, len(asked))
        with watched_by(shown):
            answers = ask(self.grid, contents, MessageType.TRAIN, shown.after(reader), federation.deadline_s, self.job.stop)
        replies: list[TrainReply] = list(answers.good.values())  # type: ignore[arg-type]
        collected = time.perf_counter()
        for sums in self.grid.sums() if isinstance(self.grid, SumsAtNodes) else ():  # of too few, too: it ends the round there
            reader.take_sums(sums)
        weights = fold.step(number, replies) if len(replies) >= federation.min_sites else None
        return _Gathered(answers, replies, weights, packed + reader.reading, collected - reader.folding)

    def _summed(self, number: int, start: Weights, nodes: Mapping[int, int], asked: Sequence[int]) -> _Gathered:
        """Ask for a round of which the server sees the sum alone."""
        assert self.summing is not None
        summed = self.summing.round(number, start, nodes, asked)
        if summed.mean is None:
            self.job.progress.note(f"round {number} is lost: {summed.why}")
        collected = time.perf_counter()
        weights = None if summed.mean is None else self.aggregator.open(start).step_mean(number, summed.mean)
        return _Gathered(summed.answers, [], weights, 0.0, collected)

    def _nodes(self) -> dict[int, int]:
        federation = self.config.federation
        if self.joined:
            return self.roster.sites(min(federation.join_deadline_s, federation.deadline_s), self.job.stop)
        self.joined = True
        return self.roster.join(self.job.expected_sites, federation.min_sites, federation.join_deadline_s, self.job.stop)

    def _sample(self, number: int, sites: Sequence[int]) -> list[int]:
        """Return the sites of round ``number``, ascending; the draw depends on the run seed and the sites alone."""
        federation = self.config.federation
        count = min(len(sites), max(federation.min_sites, round(federation.fraction * len(sites)), 1))
        if count == len(sites):
            return list(sites)
        chosen = numpy_rng(self.config.seed, "sites", number).choice(len(sites), size=count, replace=False)
        return sorted(sites[int(i)] for i in chosen)

    def metrics(self, state: Checkpoint) -> Metrics | None:
        """Return what clinical users report of the classifier, which holds the weights of ``state``."""
        if self.seen is None or self.seen[0] != state.round:  # its last round was another process's
            self._evaluate(state.round)
        return clinical(self.seen[1] if self.seen else None, self.test, self.classifier.classes)

    def _evaluate(self, number: int) -> Scores:
        found, logits = evaluate(self.classifier, self.test)
        self.seen = (number, logits)
        return found

    def _told(self, found: Scores) -> dict[str, Any]:
        """Return the fields of a round that say how good the model is, and on which images."""
        return asdict(found) | {"evaluated": None if found.accuracy is None else str(self.config.data.held_out)}


@dataclass(frozen=True)
class _Gathered:
    """What came of a round: replies where they are seen one by one, the weights that follow (None: too few answered), the seconds
    of packing and reading, and when all was collected."""

    answers: Answers
    replies: list[TrainReply]
    weights: Weights | None
    packing: float
    collected: float


def _timings(
    replies: Sequence[TrainReply], serialise: float = 0.0, aggregate: float = 0.0, evaluate: float = 0.0
) -> dict[str, float]:
    def of(key: str) -> float:
        return sum(reply.metrics.get(key, 0.0) for reply in replies)

    return {
        "train": of("train_s"),
        "generate": of("generate_s"),
        "serialise": serialise + of("serialise_s"),
        "aggregate": aggregate,
        "evaluate": evaluate,
    }


def _mean_loss(replies: Sequence[TrainReply]) -> float | None:
    known = [reply for reply in replies if "loss" in reply.metrics]
    total = sum(reply.examples for reply in known)
    return sum(reply.examples / total * reply.metrics["loss"] for reply in known) if known else None


def _generated(replies: Sequence[TrainReply]) -> int | None:
    """Return the images that went through the generators of a round's sites; None where no site tells."""
    told = [reply.metrics["generated"] for reply in replies if "generated" in reply.metrics]
    return round(sum(told)) if told else None


def _give_up_if_silent(history: History) -> None:
    rounds = history[1:]
    if len(rounds) == SILENT_ROUNDS and not any(one.answered for one in rounds):
        raise UserError(_silence(history))


def _silence(history: History) -> str:
    missing = sum(one.missing for one in history)
    codes: dict[str, int] = {}
    for one in history:
        for code, n in one.rejected.items():
            codes[code] = codes.get(code, 0) + n
    left_out = ", ".join(f"{n} {code}" for code, n in sorted(codes.items())) or "none"
    hint = "".join(f" '{code}': {Code(code).means}." for code in sorted(codes) if code in set(Code))
    return (
        f"no site answered in {len(history) - 1} round(s): {missing} missing, refused or left out: {left_out}.{hint} "
        "Missing sites need more time (federation.deadline_s) or are down."
    )
