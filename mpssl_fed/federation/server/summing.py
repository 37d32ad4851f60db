"""The server's side of secure aggregation: exchanges of keys, masked rounds, and the one mean that comes out of each."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid as FlowerGrid

from mpssl_fed.config import Config
from mpssl_fed.federation import secure_messages as wire
from mpssl_fed.federation.messages import SentConfig, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.server.collect import Answers, ask
from mpssl_fed.federation.server.exchange import Exchange, committed, dealt_of, fitting, hello_of, load, nonce_of, strictness, whole
from mpssl_fed.federation.server.shared_step import NOTHING, SharedStep, Summed
from mpssl_fed.federation.weights import flat, to_record, unflat
from mpssl_fed.files import write_atomic
from mpssl_fed.models import Weights
from mpssl_fed.runs.progress import Progress, RoundSteps
from mpssl_fed.secure.epoch import Epoch, View
from mpssl_fed.secure.errors import Decline, OpenError
from mpssl_fed.secure.keys import Integers
from mpssl_fed.secure.member import Answer
from mpssl_fed.secure.opening import open_sum
from mpssl_fed.secure.quantise import Grid
from mpssl_fed.watch import watched_by

Reply = Callable[[RecordDict], Any]
Body = Mapping[str, Any]


@dataclass
class Summing:
    """Secure aggregation of one run at the server. file: where it is found again after a crash."""

    grid: FlowerGrid
    config: Config
    sent: SentConfig
    file: Path
    progress: Progress
    stop: threading.Event
    exchange: Exchange | None = None
    left_out: set[int] = field(default_factory=set)  # sites whose shares opened nothing

    def __post_init__(self) -> None:
        self.step = SharedStep(self.config)
        if self.file.is_file():
            self.exchange = load(self.file, self.sent.run_id)

    def round(self, number: int, start: Weights, nodes: Mapping[int, int], asked: Sequence[int]) -> Summed:
        """Ask the sites ``asked`` (site -> node in ``nodes``) for round ``number`` and return their mean."""
        rejected = self._ready(number, nodes)
        exchange = self.exchange
        if exchange is None:
            return Summed(None, Answers(rejected=rejected.rejected, missing=rejected.missing), "too few sites exchanged keys")
        known = exchange.under_way if exchange.under_way.get("round") == number else {}
        if not known:
            places = sorted(exchange.place(site) for site in exchange.enough(asked, nodes))
            known = {"round": number, "slot": exchange.slot, "participants": places, "survivors": None}
            exchange.slot, exchange.under_way = exchange.slot + 1, known
            self._save()
        request = TrainRequest(self.sent, number, to_record(start))
        known["request"] = wire.request_name(request, exchange.epoch.id.hex(), known["slot"], known["participants"])
        masked, answers = self._train(request, start, nodes, known)
        answers.rejected.update(rejected.rejected)
        summed = self._sum(start, nodes, known, masked)
        if isinstance(summed, str):
            self.exchange = None  # what went wrong is mended by new keys, or not at all
            self.file.unlink(missing_ok=True)
            return Summed(None, answers, summed)
        return Summed(summed, answers)

    def _ready(self, number: int, nodes: Mapping[int, int]) -> Answers:
        """See to it that there is an epoch with a free slot, and with enough of the sites online in it."""
        exchange = self.exchange
        if exchange is not None and exchange.under_way.get("round") == number:
            return Answers()
        if exchange is not None:
            terms = exchange.epoch.terms
            able = exchange.takes_part & set(nodes)
            if exchange.slot < terms.slots and len(able) >= max(terms.min_sites, terms.threshold):
                return Answers()
        self.exchange = None
        return self._exchange(nodes)

    def _exchange(self, nodes: Mapping[int, int]) -> Answers:
        """Exchange keys among all sites online; those whose terms cannot be met are left out, the strictest first."""
        answers = self._ask({site: node for site, node in nodes.items() if site not in self.left_out}, "hello", {}, hello_of)
        proposed, epoch = wire.terms_of(self.config), None
        hellos = fitting(answers.good, proposed)  # type: ignore[arg-type]
        answers.rejected += Counter(malformed=len(answers.good) - len(hellos) + len(self.left_out & set(nodes)))
        while len(hellos) >= 2 and epoch is None:
            try:
                epoch = Epoch.of(list(hellos.values()), proposed)
            except Decline:
                del hellos[max(hellos, key=lambda site: (*strictness(hellos[site]), site))]
                answers.rejected["secure-terms"] += 1
        if epoch is None:
            return answers
        body: dict[str, Any] = {"hellos": [one.dump() for one in epoch.hellos]}
        if epoch.terms.degree:
            shown = self._ask({site: nodes[site] for site in hellos}, "reveal", body, nonce_of)
            nonces: dict[int, bytes] = {site: one for site, one in shown.good.items() if committed(hellos[site], one)}  # type: ignore[arg-type, misc]
            if nonces.keys() != hellos.keys():  # no graph without all: new keys, among those who showed what they committed to
                self.left_out |= shown.good.keys() - nonces.keys()
                again = self._exchange({site: nodes[site] for site in nonces})
                again.rejected += answers.rejected + shown.rejected + Counter(malformed=len(shown.good) - len(nonces))
                return again
            ordered = sorted(nonces, key=lambda site: hellos[site].hello.identity)
            epoch = epoch.drawn([nonces[site] for site in ordered])
            body["nonces"] = [nonces[site].hex() for site in ordered]
        joined = self._ask({site: nodes[site] for site in hellos}, "join", body, dealt_of)
        answers.rejected.update(joined.rejected)
        said: dict[int, dict[str, str]] = dict(joined.good)  # type: ignore[arg-type]
        dealt = {site: one for site, one in said.items() if whole(one, epoch.place(hellos[site].hello.public), epoch)}
        answers.rejected += Counter(malformed=len(said) - len(dealt))
        if len(dealt) >= max(epoch.terms.min_sites, epoch.terms.threshold):
            self.exchange = Exchange(hellos, dealt, epoch)
            self._save()
            terms = epoch.terms
            self.progress.note(
                f"secure aggregation: {len(dealt)} sites exchanged keys for {terms.slots} rounds; a sum has at least "
                f"{terms.min_sites} of them and opens with the answers of {terms.threshold}"
                + (f" of the {terms.degree} neighbours of each" if terms.degree else "")
            )
        return answers

    def _train(
        self, request: TrainRequest, start: Weights, nodes: Mapping[int, int], known: Mapping[str, Any]
    ) -> tuple[dict[int, Integers], Answers]:
        exchange = self.exchange
        assert exchange is not None
        length = self.step.length(start)
        sites, contents = exchange.sites, {}
        for place in known["participants"]:
            site = sites[place]
            if site in nodes:
                asked = {key: known[key] for key in ("slot", "participants")}
                task = {"epoch": exchange.epoch.id.hex(), **asked, "inbox": exchange.inbox(site)}
                contents[site] = (nodes[site], replace(request, secure=json.dumps(task)).to_record())
        shown = RoundSteps(self.progress, request.round, len(contents))
        with watched_by(shown):
            answers = ask(
                self.grid,
                contents,
                MessageType.TRAIN,
                shown.after(lambda reply: wire.masked_of(reply, length)),
                self.config.federation.deadline_s,
                self.stop,
            )
        exchange.served |= set(answers.good)
        exchange.lost |= {site for site, code in answers.codes.items() if code == "secure-epoch"}
        answers.missing += len(known["participants"]) - len(contents)
        return {exchange.place(site): vector for site, vector in answers.good.items()}, answers  # type: ignore[misc]

    def _sum(
        self, start: Weights, nodes: Mapping[int, int], known: dict[str, Any], masked: Mapping[int, Integers]
    ) -> dict[str, np.ndarray] | str:
        """Return the mean of the survivors, or in words why the sum is lost."""
        exchange = self.exchange
        assert exchange is not None
        epoch, terms = exchange.epoch, exchange.epoch.terms
        survivors = known["survivors"] or sorted(masked)
        if not set(survivors) <= set(masked):
            return "a site whose vector the sum holds did not send it again"
        if len(survivors) < terms.min_sites:
            return f"{len(survivors)} of at least {terms.min_sites} sites answered"
        known["survivors"] = survivors
        self._save()
        view = View(
            known["slot"], self.sent.run_id, known["round"], tuple(known["participants"]), tuple(survivors), known["request"]
        )
        body = {"epoch": epoch.id.hex(), **{key: value for key, value in asdict(view).items() if key != "run"}, "signatures": {}}
        here = {site: node for site, node in nodes.items() if site in exchange.hellos}
        if terms.signed:
            signers = {exchange.sites[place]: here[exchange.sites[place]] for place in survivors if exchange.sites[place] in here}
            signed = self._ask(signers, "sign", body, _signature_of).good
            body["signatures"] = {str(exchange.place(site)): one for site, one in signed.items()}
        inboxes = {site: {"inbox": exchange.inbox(site)} for site in here}
        answers = self._ask(here, "open", body, _answer_of, inboxes).good
        exchange.served |= set(answers)
        total = np.zeros_like(masked[survivors[0]])
        for place in survivors:
            total += masked[place]
        try:
            opened = open_sum(epoch, view, total, {exchange.place(site): one for site, one in answers.items()})  # type: ignore[misc]
        except OpenError as error:
            if error.place is not None:
                self.left_out.add(exchange.sites[error.place])
                self.progress.note(
                    f"what site {exchange.sites[error.place]} dealt opens nothing, by its own shares or by lies of more than "
                    f"{max(terms.colluding, 1)} others: it is left out from now on"
                )
            return f"the sum was not opened: {error}"
        if self.config.privacy.shared:
            return self.step.taken(start, known["round"], opened)
        found = Grid(terms, epoch.sites).mean(opened)
        if found is None:
            return NOTHING
        return _moved(found[0], start)

    def _ask(
        self, nodes: Mapping[int, int], phase: str, body: Body, read: Reply, beside: Mapping[int, Body] | None = None
    ) -> Answers:
        """Ask each of ``nodes`` with ``body`` and what is ``beside`` it for that site."""
        bodies = {site: json.dumps({**body, **(beside or {}).get(site, {})}) for site in nodes}
        contents = {site: (node, wire.SecureRequest(self.sent, phase, bodies[site]).to_record()) for site, node in nodes.items()}
        return ask(self.grid, contents, wire.MESSAGE_TYPE, read, self.config.federation.deadline_s, self.stop)

    def _save(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        content = {
            "run": self.sent.run_id,
            "hellos": {str(site): one.dump() for site, one in exchange.hellos.items()},
            "dealt": {str(site): dealt for site, dealt in exchange.dealt.items()},
            "seed": exchange.epoch.seed.hex(),
            "proposed": asdict(wire.terms_of(self.config)),
            "slot": exchange.slot,
            "under_way": exchange.under_way,
            "lost": sorted(exchange.lost),
            "served": sorted(exchange.served),
        }
        write_atomic(self.file, json.dumps(content))


def _signature_of(record: RecordDict) -> str:
    return wire.parse(wire.Signature, wire.heard(record)).signature


def _answer_of(record: RecordDict) -> Answer:
    opened = wire.parse(wire.Opened, wire.heard(record))
    try:
        return Answer.load(opened.model_dump())
    except Decline as decline:
        raise Refusal("malformed") from decline


def _moved(update: np.ndarray, start: Weights) -> dict[str, np.ndarray]:
    """Return ``start`` moved by ``update``, in float64, by name; a variance that rounding took below 0 is 0, as sites want it."""
    moved = unflat(flat(start) + update, start)
    return {key: np.maximum(value, 0.0) if key.endswith("running_var") else value for key, value in moved.items()}
