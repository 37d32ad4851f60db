"""A site's privacy budget in a run: what its policy grants, the plan, and the ledger that stands before every private read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.spending import allowance, refuse_reads
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.build import releases as build_releases
from mpssl_fed.privacy.filter import EXCLUSIVE, BudgetExceededError, RenyiFilter, admit_round, admit_run, limit_of, refuse_taken
from mpssl_fed.privacy.ledger import Identities, Ledger, PlannedRun
from mpssl_fed.privacy.ledger_files import LedgerError, OutsidePlanError
from mpssl_fed.privacy.ledger_rows import Spent
from mpssl_fed.privacy.mechanism import Charge
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.plan import Plan, plan_for
from mpssl_fed.privacy.policy import Granted, Policy, Request, decide
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.shared.history import History
from mpssl_fed.privacy.units.per_unit import units_of

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

    def spent(self) -> Spent:
        """Return what the data has spent over its life; nothing where there is no ledger yet, and none is made."""
        ledger = self.ledger if isinstance(self.ledger, Ledger) else Ledger(self.ledger)
        return Spent(self.dataset) if ledger.files.absent else ledger.spent(self.dataset)


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
        return private_data(self.config, parts, plan=self.plan, charge=charge, noise=noise)

    def open_evaluation(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> DPPrivateData:
        """Return the images that are held out, behind the release that passes ``charge``."""
        assert parts.held_out is not None
        return build_releases(self.config, replace(parts, labelled=parts.held_out), self.plan, charge, noise)

    def foresee(self, run: str, number: int, first: bool) -> None:
        """Refuse what :meth:`reserve` would for the plan or the budget: a look at the books, for what is costly to build."""
        self._require_planned(number)
        self._foresee(run, number, self.plan.round_history(number, first))

    def foresee_evaluation(self, run: str, number: int) -> None:
        """Refuse what :meth:`reserve_evaluation` would for the plan or the budget."""
        self._foresee(run, number, self._of_evaluation(number))

    def _foresee(self, run: str, number: int, releases: History) -> None:
        end_to_end = self.plan.scope == "end-to-end"
        with _coded():
            spent = self.books.spent()
            known = spent.runs.get(run)
            if known is not None:
                known.require_plan(run, self.plan.commitment())
                known.require_left(run, number, releases)
            elif admit_run(self.limit, run, self.plan.history(), end_to_end)(spent) == EXCLUSIVE:
                return
            admit_round(self.limit, run, releases, end_to_end)(spent)

    def _of_evaluation(self, number: int) -> History:
        try:
            return self.plan.evaluation_history(number)
        except UserError as error:
            log.warning("declined (plan): %s", error)
            raise Refusal("plan") from error

    def _require_planned(self, number: int) -> None:
        if not 1 <= number <= self.plan.rounds:
            log.warning("declined (plan): round %d is outside the plan of %d rounds", number, self.plan.rounds)
            raise Refusal("plan")

    def reserve(self, run: str, number: int, first: bool, labelled: Images) -> Charge:
        """Reserve all releases of round ``number`` on disk and return the charge that each private read must pass.

        Raises Refusal ``budget``, ``plan``, ``unit`` or ``ledger``; the text goes to the operator's log.
        """
        self._require_planned(number)
        return self._reserve(run, number, self.plan.round_history(number, first), labelled)

    def reserve_evaluation(self, run: str, number: int, labelled: Images) -> Charge:
        """Reserve the table of the evaluation after round ``number`` as :meth:`reserve` does a round, with the same codes."""
        return self._reserve(run, number, self._of_evaluation(number), labelled, evaluation=True)

    def _reserve(self, run: str, number: int, releases: History, labelled: Images, evaluation: bool = False) -> Charge:
        if self.plan.unit == "subject" and labelled.subjects is None:
            log.warning("declined (unit): the images name no subjects")
            raise Refusal("unit")
        end_to_end, dataset = self.plan.scope == "end-to-end", self.books.dataset
        with _coded():
            ledger = self.books.open()
            ledger.add_records(dataset, identities(labelled, self.plan.unit))
            ledger.begin_run(
                dataset,
                run,
                PlannedRun(asdict(self.plan), self.plan.commitment(), self.plan.history(), self.plan.scope),
                judge=admit_run(self.limit, run, self.plan.history(), end_to_end),
                limit=self.limit.told(),
            )
            ledger.reserve(dataset, run, number, releases, admit_round(self.limit, run, releases, end_to_end), evaluation)
        return allowance(releases)


@dataclass(frozen=True)
class Unaccounted:
    """A deployed site under scope ``off``: nothing limits what is read, and the ledger says so from then on."""

    config: Config
    books: Books
    public_size: None = None

    def open_round(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> None:
        """Record that the round reads exactly, from its first look at the images on. Refusal ``ledger`` as :meth:`mark` has it."""
        self.mark(run, parts.owned)

    def open_evaluation(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> None:
        """Record that the evaluation reads exactly, as :meth:`open_round` does."""
        self.mark(run, parts.owned)

    def foresee_evaluation(self, run: str, number: int) -> None:
        """Refuse nothing: there is no plan and no budget."""

    def reserve_evaluation(self, run: str, number: int, labelled: Images) -> Charge:
        """Return a charge that allows no release: there is none."""
        return refuse_reads

    def foresee(self, run: str, number: int, first: bool) -> None:
        """Refuse nothing: there is no plan and no budget."""

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


def simulated_budget(config: Config, folder: Path) -> Budget | None:
    """Return the budget of a simulated site, its ledger in the run directory; None with scope ``off``.

    The config is its own policy there: runs on public data do not compose, which the ledger says.
    """
    if not config.privacy.on:
        return None
    plan = plan_for(config)
    books = Books(folder / "ledger.sqlite", config.data.name, simulated=True)
    return Budget(config, books, plan, RenyiFilter(plan.epsilon, plan.delta, shared=plan.shared is not None))


def decided(
    policy: Policy | None,
    config: Config,
    parameters: int | None = None,
    generator_sha256: str | None = None,
    metrics: tuple[str, ...] = (),
    sigma: float | None = None,
) -> tuple[Policy, Granted]:
    """Return the policy and what it grants; Refusal with the first code of what it declines. Quick: nothing is priced.

    parameters: entries of the classifier; generator_sha256: state hash of the generator this site loads; metrics: numbers
    asked for beside the weights; sigma: the smallest of the plan, where it is known.
    """
    decision = decide(policy, Request.of(config, sigma, parameters, generator_sha256, metrics))
    for refusal in decision.refusals:
        log.warning("declined (%s): %s", refusal.code.value, refusal.text)
    if policy is None or decision.granted is None:
        raise Refusal(decision.codes[0])
    return policy, decision.granted


def refuse_hopeless(policy: Policy | None, config: Config, ledger: Path | Ledger, run: str) -> None:
    """Refuse, with the code that it would get in the end, what no noise can make fit: before its noise is solved, which may take
    minutes at the corners of a policy.

    A new run is held against what is left of the budget, and every sigma against the least permitted, as if the plan cost as
    little as the quickest bound allows (:func:`mpssl_fed.privacy.plan.plan_for`, rough); a run on record against its own plan.
    """
    policy, limits = decided(policy, config)
    if not config.privacy.on:
        return
    least = _planned(config, limits, rough=True)
    end_to_end, limit = least.scope == "end-to-end", limit_of(policy)
    with _coded():
        spent = Books(ledger, limits.dataset).spent()
        known = spent.runs.get(run)
        if known is not None:
            told = json.loads(json.dumps(asdict(least)))  # as the ledger keeps it
            asked = {key: value for key, value in told.items() if not key.startswith("sigma_")}
            if any(known.plan[key] != value for key, value in asked.items() if key in known.plan):
                raise OutsidePlanError(f"run '{run}' committed to another plan: start a new run")
            return
        refuse_taken(spent, run, end_to_end)
        if spent.runs or spent.history:  # else the whole plan may be taken at its exact price
            admit_run(limit, run, least.history(), end_to_end)(spent)
    decided(policy, config, sigma=_least_sigma(least))


def policy_budget(
    policy: Policy | None,
    config: Config,
    ledger: Path | Ledger,
    parameters: int | None = None,
    generator_sha256: str | None = None,
    metrics: tuple[str, ...] = (),
) -> Budget | Unaccounted:
    """Return what a deployed site's policy grants to ``config``; Refusal and arguments as :func:`decided` has them."""
    policy, limits = decided(policy, config, parameters, generator_sha256, metrics)
    books = Books(ledger, limits.dataset)
    if not config.privacy.on:
        return Unaccounted(config, books)
    plan = _planned(config, limits)
    decided(policy, config, parameters, generator_sha256, metrics, _least_sigma(plan))
    return Budget(config, books, plan, limit_of(policy))


def _planned(config: Config, limits: Granted, rough: bool = False) -> Plan:
    try:
        return plan_for(config, delta=limits.delta, public_size=limits.public_size, unit=limits.unit, rough=rough)
    except (UserError, ArithmeticError, ValueError) as error:  # an accountant at the edge of its numbers: no price, no plan
        log.warning("declined (plan): %s", error)
        raise Refusal("plan") from error


def _least_sigma(plan: Plan) -> float:
    return min(one.sigma for one in plan.mechanisms().values())


def identities(labelled: Images, unit: str) -> Identities:
    """Return by what the ledger knows these images and their subjects again. All of it stays here; the ledger keeps HMACs."""

    def earlier() -> Iterator[bytes]:
        """Yield what version 0.1 kept: the pixels of an image, or of all of a subject's, at the size that was asked."""
        for kind in ("image", "subject") if labelled.subjects is not None else ("image",):
            for index in units_of(labelled, "subject" if kind == "subject" else "image"):
                yield b"".join(sorted(labelled.x[i].contiguous().numpy().tobytes() for i in index.tolist()))

    subjects = (subject.encode("utf-8", "surrogatepass") for subject in labelled.subjects or ())
    return Identities(frozenset(labelled.contents()), frozenset(subjects), unit, earlier)


@contextmanager
def _coded() -> Iterator[None]:
    """Turn the ledger's and the filter's errors into codes; what they say is the operator's to read."""
    try:
        yield
    except (BudgetExceededError, LedgerError) as error:
        code = "budget" if isinstance(error, BudgetExceededError) else "plan" if isinstance(error, OutsidePlanError) else "ledger"
        log.warning("declined (%s): %s", code, error)
        raise Refusal(code) from error
