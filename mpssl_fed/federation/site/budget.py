"""A site's privacy budget in a run: what its policy grants, the plan, and the ledger that stands before every private read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.models import Classifier
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.filter import BudgetExceededError, RenyiFilter, admit_round, admit_run
from mpssl_fed.privacy.ledger import Identities, Ledger
from mpssl_fed.privacy.ledger_files import LedgerError, OutsidePlanError
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.per_unit import units_of
from mpssl_fed.privacy.plan import Plan, plan_for
from mpssl_fed.privacy.policy import Decision, Policy, Request, decide
from mpssl_fed.privacy.releases import DPPrivateData, LabelledStepPrivateData

log = logging.getLogger("mpssl_fed.site")

ReleasingData = DPPrivateData | LabelledStepPrivateData


@dataclass(frozen=True)
class Budget:
    """The plan of a run at one site, the limits over the data set's life, and where spending is recorded.

    ledger: its path, or the ledger itself where a process keeps it; dataset: the name the ledger keeps the data under; limit: None
    where no limit holds (scope ``off``).
    """

    config: Config
    ledger: Path | Ledger
    dataset: str
    plan: Plan | None
    limit: RenyiFilter | None
    simulated: bool = False

    @property
    def public_size(self) -> int | None:
        """The declared size, the site's weight in the average; None outside differential privacy."""
        return self.plan.public_size if self.plan else None

    def reserve(self, run: str, number: int, first: bool, labelled: Images) -> Callable[[Kind, float, float], None]:
        """Reserve all releases of round ``number`` on disk and return the charge that each private read must pass.

        first: the site has no state of this run yet. Raises Refusal ``budget``, ``plan``, ``unit`` or ``ledger``; the text goes
        to the operator's log.
        """
        assert self.plan is not None
        assert self.limit is not None
        if not 1 <= number <= self.plan.rounds:
            log.warning("declined (plan): round %d is outside the plan of %d rounds", number, self.plan.rounds)
            raise Refusal("plan")
        if self.plan.unit == "subject" and labelled.subjects is None:
            log.warning("declined (unit): the images name no subjects")
            raise Refusal("unit")
        end_to_end = self.plan.scope == "end-to-end"
        releases = self.plan.round_history(number, first)
        with _coded():
            ledger = self._open()
            ledger.add_records(self.dataset, identities(labelled, self.plan.unit))
            ledger.begin_run(
                self.dataset,
                run,
                plan=asdict(self.plan),
                commitment=self.plan.commitment(),
                history=self.plan.history(),
                scope=self.plan.scope,
                judge=admit_run(self.limit, run, self.plan.history(), end_to_end),
                limit=asdict(self.limit),
            )
            ledger.reserve(self.dataset, run, number, releases, admit_round(self.limit, run, releases, end_to_end))
        return _allowance(releases)

    def mark_unaccounted(self, run: str, labelled: Images) -> None:
        """Record, before the first read, that this run reads the data outside any accounting (scope ``off``).

        Raises Refusal ``ledger`` as :meth:`reserve` does: images that stand under another name would taint that one.
        """
        with _coded():
            ledger = self._open()
            ledger.add_records(self.dataset, identities(labelled, self.config.privacy.unit))
            ledger.mark_unaccounted(self.dataset, run, "scope off")

    def releases(
        self,
        classifier: Classifier,
        labelled: Images,
        flip: bool,
        charge: Callable[[Kind, float, float], None],
        noise: Noise | None,
    ) -> ReleasingData:
        """Return the private data of a round whose releases ``charge`` was reserved for."""
        assert self.plan is not None
        data = private_data(self.config, classifier, labelled, flip=flip, plan=self.plan, charge=charge, noise=noise)
        assert isinstance(data, DPPrivateData | LabelledStepPrivateData)
        return data

    def _open(self) -> Ledger:
        ledger = self.ledger if isinstance(self.ledger, Ledger) else Ledger(self.ledger)
        if ledger.files.absent:
            try:
                ledger.make(simulated=self.simulated)
            except LedgerError:
                if ledger.files.absent:  # else another process made it at the same moment
                    raise
        return ledger


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
    return Budget(config, folder / "ledger.sqlite", config.data.name, plan, RenyiFilter(plan.epsilon, plan.delta), simulated=True)


def policy_budget(
    policy: Policy | None,
    config: Config,
    ledger: Path | Ledger,
    parameters: int | None = None,
    generator_sha256: str | None = None,
    metrics: tuple[str, ...] = (),
) -> Budget:
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
    if not config.privacy.on:
        return Budget(config, ledger, limits.dataset, None, None)
    try:
        plan = plan_for(config, delta=limits.delta, public_size=limits.public_size, unit=limits.unit)
    except (UserError, ArithmeticError, ValueError) as error:  # an accountant at the edge of its numbers: no price, no plan
        log.warning("declined (plan): %s", error)
        raise Refusal("plan") from error
    granted(min(release.sigma for release in plan.releases()))
    return Budget(config, ledger, limits.dataset, plan, RenyiFilter(policy.max_epsilon, policy.delta))


def _allowance(releases: dict[tuple[float, float], int]) -> Callable[[Kind, float, float], None]:
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
    """A charge that allows nothing until ``by`` is what :meth:`Budget.reserve` returned: what is built before costs nothing."""

    by: Callable[[Kind, float, float], None] = staticmethod(refuse_reads)

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
