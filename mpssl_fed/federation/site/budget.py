"""A site's privacy budget in a run: what its policy grants, the plan, and the ledger that stands before every private read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation.parts import Parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.filter import BudgetExceededError, RenyiFilter, admit_round, admit_run
from mpssl_fed.privacy.ledger import Identities, Ledger
from mpssl_fed.privacy.ledger_files import LedgerError, OutsidePlanError
from mpssl_fed.privacy.mechanism import Charge, Kind
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.per_unit import units_of
from mpssl_fed.privacy.plan import Plan, plan_for
from mpssl_fed.privacy.policy import Decision, Policy, Request, decide

log = logging.getLogger("mpssl_fed.site")


@dataclass(frozen=True)
class Books:
    """Where a site records what it spends. ledger: its path, or the ledger itself where a process keeps it; dataset: the name that
    the ledger keeps the data under."""

    ledger: Path | Ledger
    dataset: str
    simulated: bool = False

    def open(self) -> Ledger:
        """Return the ledger, made anew where there is none."""
        ledger = self.ledger if isinstance(self.ledger, Ledger) else Ledger(self.ledger)
        if ledger.files.absent:
            try:
                ledger.make(simulated=self.simulated)
            except LedgerError:
                if ledger.files.absent:  # else another process made it at the same moment
                    raise
        return ledger


class Spending(Protocol):
    """What stands between a round and the images: it records the round before its first read and says how it may read."""

    @property
    def public_size(self) -> int | None:
        """The declared size, the site's weight in the average; None outside differential privacy."""

    def open_round(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> PrivateData | None:
        """Return the images behind their releases, each of which passes ``charge``; None for exact reads.

        noise: where draws and noise come from, by default what the config names.
        """

    def reserve(self, run: str, number: int, first: bool, labelled: Images) -> Charge:
        """Return the charge of round ``number`` once it is recorded on disk; Refusal where the round is not to be.

        first: the site has no state of this run yet.
        """


@dataclass(frozen=True)
class Budget:
    """The plan of a run at one site, and the limits over the data set's life."""

    config: Config
    books: Books
    plan: Plan
    limit: RenyiFilter

    @property
    def public_size(self) -> int:
        """The declared size."""
        return self.plan.public_size

    def open_round(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> PrivateData:
        """Return the private data whose releases pass ``charge``."""
        return private_data(
            self.config, parts.classifier, parts.labelled, flip=parts.flip, plan=self.plan, charge=charge, noise=noise
        )

    def reserve(self, run: str, number: int, first: bool, labelled: Images) -> Charge:
        """Reserve all releases of round ``number`` on disk and return the charge that each private read must pass.

        Raises Refusal ``budget``, ``plan``, ``unit`` or ``ledger``; the text goes to the operator's log.
        """
        if not 1 <= number <= self.plan.rounds:
            log.warning("declined (plan): round %d is outside the plan of %d rounds", number, self.plan.rounds)
            raise Refusal("plan")
        if self.plan.unit == "subject" and labelled.subjects is None:
            log.warning("declined (unit): the images name no subjects")
            raise Refusal("unit")
        end_to_end = self.plan.scope == "end-to-end"
        releases, dataset = self.plan.round_history(number, first), self.books.dataset
        with _coded():
            ledger = self.books.open()
            ledger.add_records(dataset, identities(labelled, self.plan.unit))
            ledger.begin_run(
                dataset,
                run,
                plan=asdict(self.plan),
                commitment=self.plan.commitment(),
                history=self.plan.history(),
                scope=self.plan.scope,
                judge=admit_run(self.limit, run, self.plan.history(), end_to_end),
                limit=asdict(self.limit),
            )
            ledger.reserve(dataset, run, number, releases, admit_round(self.limit, run, releases, end_to_end))
        return _allowance(releases)


@dataclass(frozen=True)
class Unaccounted:
    """A deployed site under scope ``off``: nothing limits what is read, and the ledger says so from then on."""

    config: Config
    books: Books
    public_size: None = None

    def open_round(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> None:
        """Record that the round reads exactly, from its first look at the images on. Refusal ``ledger`` as :meth:`mark` has it."""
        self.mark(run, parts.labelled)

    def reserve(self, run: str, number: int, first: bool, labelled: Images) -> Charge:
        """Return a charge that allows no release: there is none."""
        return refuse_reads

    def mark(self, run: str, labelled: Images) -> None:
        """Record, before the first read, that this run reads the data outside any accounting.

        Raises Refusal ``ledger`` as :meth:`Budget.reserve` does: images that stand under another name would taint that one.
        """
        with _coded():
            ledger = self.books.open()
            ledger.add_records(self.books.dataset, identities(labelled, self.config.privacy.unit))
            ledger.mark_unaccounted(self.books.dataset, run, "scope off")


def refuse_reads(kind: Kind, sigma: float, q: float) -> None:
    """Charge nothing and allow nothing: for a learner that only shows its synthetic images."""
    raise RuntimeError(f"release '{kind}' (sigma {sigma:g}, q {q:g}) was not reserved")


def simulated_budget(config: Config, folder: Path) -> Budget | None:
    """Return the budget of a simulated site, its ledger in the run directory; None with scope ``off``.

    The config is its own policy there: runs on public data do not compose, which the ledger says.
    """
    if not config.privacy.on:
        return None
    plan = plan_for(config)
    books = Books(folder / "ledger.sqlite", config.data.name, simulated=True)
    return Budget(config, books, plan, RenyiFilter(plan.epsilon, plan.delta))


def policy_budget(
    policy: Policy | None,
    config: Config,
    ledger: Path | Ledger,
    parameters: int | None = None,
    generator_sha256: str | None = None,
    metrics: tuple[str, ...] = (),
) -> Budget | Unaccounted:
    """Return what a deployed site's policy grants to ``config``; Refusal with the first code of what it declines.

    parameters: entries of the classifier; generator_sha256: state hash of the generator this site loads; metrics: numbers
    asked for beside the weights.
    """

    def granted(sigma: float | None) -> Decision:
        decision = decide(policy, Request.of(config, sigma, parameters, generator_sha256, metrics))
        for refusal in decision.refusals:
            log.warning("declined (%s): %s", refusal.code.value, refusal.text)
        if decision.granted is None:
            raise Refusal(decision.codes[0])
        return decision

    limits = granted(None).granted
    assert limits is not None
    assert policy is not None
    books = Books(ledger, limits.dataset)
    if not config.privacy.on:
        return Unaccounted(config, books)
    try:
        plan = plan_for(config, delta=limits.delta, public_size=limits.public_size, unit=limits.unit)
    except (UserError, ArithmeticError, ValueError) as error:  # an accountant at the edge of its numbers: no price, no plan
        log.warning("declined (plan): %s", error)
        raise Refusal("plan") from error
    granted(min(one.sigma for one in plan.mechanisms().values()))
    return Budget(config, books, plan, RenyiFilter(policy.max_epsilon, policy.delta))


def _allowance(releases: dict[tuple[float, float], int]) -> Charge:
    """Return the charge of a round: it counts down what was reserved and raises on one release more."""
    left = Counter(releases)

    def charge(kind: Kind, sigma: float, q: float) -> None:
        if left[sigma, q] < 1:
            refuse_reads(kind, sigma, q)
        left[sigma, q] -= 1

    return charge


def identities(labelled: Images, unit: str) -> Identities:
    """Return by what the ledger knows these images and their subjects again. All of it stays here; the ledger keeps HMACs."""

    def earlier() -> Iterator[bytes]:
        """Yield what version 0.1 kept: the pixels of an image, or of all of a subject's, at the size that was asked."""
        for kind in ("image", "subject") if labelled.subjects is not None else ("image",):
            for index in units_of(labelled, "subject" if kind == "subject" else "image"):
                yield b"".join(sorted(labelled.x[i].contiguous().numpy().tobytes() for i in index.tolist()))

    subjects = (subject.encode("utf-8", "surrogatepass") for subject in labelled.subjects or ())
    return Identities(frozenset(labelled.contents()), frozenset(subjects), unit, earlier)


class Reserved:
    """A charge that allows nothing until ``by`` is what :meth:`Spending.reserve` returned: what is built before costs nothing."""

    by: Charge = staticmethod(refuse_reads)

    def __call__(self, kind: Kind, sigma: float, q: float) -> None:
        """Charge one release."""
        self.by(kind, sigma, q)


@contextmanager
def _coded() -> Iterator[None]:
    """Turn the ledger's and the filter's errors into codes; what they say is the operator's to read."""
    try:
        yield
    except (BudgetExceededError, LedgerError) as error:
        code = "budget" if isinstance(error, BudgetExceededError) else "plan" if isinstance(error, OutsidePlanError) else "ledger"
        log.warning("declined (%s): %s", code, error)
        raise Refusal(code) from error
