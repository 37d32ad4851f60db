"""What a simulation of public data keeps in memory of its sites: read once a run, written at the server's checkpoints.

A deployed site writes its state before it answers, and so does every site with a ledger. Where nothing is charged a round can be
trained again, bit for bit, so that what lies between two checkpoints need not be on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, RecordDict

from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import TableReply, TrainReply, TrainRequest
from mpssl_fed.federation.site.state import Entry, SiteState, State
from mpssl_fed.federation.weights import from_record
from mpssl_fed.method import Learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Block, Classifier, Weights

MOST_BYTES = 256 * 2**20
"""Of latents in memory; those beyond are written and read again when their site trains next."""

MOST_READY_BYTES = 64 * 2**20
"""Of all sites' labelled images, as bytes and as floats, where their learners stay from round to round; of more, none does."""


def can_be_held(config: Config) -> bool:
    """Return whether sites of ``config`` answer nothing that is charged, stored or masked: their rounds can be trained again."""
    return not config.privacy.on and config.federation.aggregation == "plain"


class Held:
    """The sites of one run that train in this process, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._entries: dict[int, Entry] = {}
        self._unwritten: set[int] = set()
        self.blank: set[int] = set()
        """Sites that have nothing on disk, nor here."""
        self._bytes = 0
        self._content: RecordDict | None = None
        self._request: TrainRequest | None = None
        self._arrays: ArrayRecord | None = None
        self._start: Weights = {}
        self._made: tuple[Config, Classifier] | None = None
        self._ready: dict[int, tuple[Parts, Learner]] = {}
        self.full = False
        """Whether latents had to be written since the last checkpoint: the next one is due."""

    def request(self, content: RecordDict) -> TrainRequest:
        """Return the request in ``content``, parsed once for all sites that are sent it; Refusal as there."""
        if self._request is None or content is not self._content:
            self._request = TrainRequest.from_record(content)
            self._content = content
        return self._request

    def start(self, arrays: ArrayRecord, classifier: Classifier) -> Weights:
        """Return the weights in ``arrays``, read and checked once for all sites that start from them; nobody may change them."""
        if arrays is not self._arrays:
            self._start, self._arrays = Block.of(from_record(arrays, classifier.shared_state())), arrays
        return self._start

    def parts(self, config: Config, site: int) -> Parts:
        """Return the parts of a site around the one classifier of all, which is reset by the weights that a round starts from."""
        if self._made is None or self._made[0] is not config:
            self._made = (config, parts.initial_classifier(config))
            self._made[1].gather()
            self._ready.clear()
        ready = self._ready.get(site)
        return parts.simulated(config, site, self._made[1]) if ready is None else ready[0]

    def learner(self, site: int, made: Parts) -> Learner | None:
        """Return the learner that :meth:`keep_ready` was given with these very parts; None where there is none."""
        ready = self._ready.get(site)
        return ready[1] if ready is not None and ready[0] is made else None

    def keep_ready(self, site: int, made: Parts, learner: Learner) -> None:
        """Keep ``learner`` for the next round where a round leaves nothing in it and all sites' images are few."""
        some = (made.labelled, made.held_out, made.whole)
        pixels = sum(images.x.numel() for images in some if images is not None)
        few = pixels * (1 + 4) * learner.config.federation.sites <= MOST_READY_BYTES
        if few and learner.unsupervised is None and learner.anchor is None:
            self._ready[site] = (made, learner)

    def state(self, site: int) -> HeldState:
        """Return the state of a site."""
        return HeldState(self, site)

    def entry(self, site: int) -> Entry | None:
        """Return the last round that ``site`` trained in this process, None where it is not in memory."""
        return self._entries.get(site)

    def keep(self, site: int, entry: Entry) -> None:
        """Keep ``entry`` in place of what was there; where memory is full, all are written and let go."""
        self.blank.discard(site)
        self._bytes += _bytes(entry) - _bytes(self._entries.get(site))
        self._entries[site] = entry
        self._unwritten.add(site)
        if self._bytes > MOST_BYTES:
            self._write()
            self._entries.clear()
            self._bytes, self.full = 0, True

    def flush(self) -> None:
        """Write what is not on disk yet: the server is about to make a checkpoint."""
        self._write()
        self.full = False

    def interrupt(self) -> None:
        """Do nothing: a site that trains in this process has been interrupted with it."""

    def _write(self) -> None:
        for site in sorted(self._unwritten):
            SiteState(self.folder / str(site)).save(self._entries[site], durable=False)
        self._unwritten.clear()


@dataclass(frozen=True)
class HeldState:
    """The state of one site as :class:`SiteState` has it, without the replies: they are trained again."""

    held: Held
    site: int

    def require(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """Do nothing: the run's config was compared when it was opened."""

    def stored_reply(self, run_id: str, number: int, weights_sha256: str) -> TrainReply | None:
        """Return None."""
        return None

    def stored_table(self, run_id: str, number: int, weights_sha256: str) -> TableReply | None:
        """Return None."""
        return None

    def save_table(self, run_id: str, number: int, weights_sha256: str, reply: TableReply, settings: Mapping[str, Any]) -> None:
        """Do nothing."""

    def before(self, run_id: str, number: int) -> State | None:
        """Return the latents to start round ``number`` from, as :meth:`SiteState.before` does."""
        entry = self.held.entry(self.site)
        if entry is None and self.site in self.held.blank:
            return None
        if entry is None or number < entry.round:
            found = SiteState(self.held.folder / str(self.site)).before(run_id, number)
            if entry is None and found is None:
                self.held.blank.add(self.site)
            return found
        return entry.before if number == entry.round else entry.after

    def save(self, entry: Entry) -> None:
        """Keep ``entry`` until the next checkpoint."""
        self.held.keep(self.site, entry)


class SimulatedContext(Context):
    """A node's context that hands what is held in this process to the site at it."""

    held: Held | None = None


def _bytes(entry: Entry | None) -> int:
    return 0 if entry is None else sum(t.numel() * t.element_size() for part in (entry.before, entry.after) for t in part.values())
