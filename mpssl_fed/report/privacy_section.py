"""What a report says of a private run: its terms, what was planned after each round, what each site's ledger says was spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpssl_fed.config import Config, from_mapping
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import LedgerError
from mpssl_fed.report.table import NOTHING, make_table
from mpssl_fed.runs.reader import RunReader

if TYPE_CHECKING:
    from mpssl_fed.privacy.plan import Plan

NOT_COVERED = (
    "No epsilon here covers the number of sites, who took part and when, the search for hyper-parameters before this run, other "
    "runs on the same images, or the same person at two sites."
)
LABELLED_STEP = (
    "Scope labelled-step: epsilon covers the supervised gradient alone. What latent meta-optimisation and pseudo-labels read of "
    "private images is outside it, so the epsilon of the whole run is infinite."
)
SIMULATED = "Ledgers of a simulation: runs on public data do not compose."
ELSEWHERE = "What was spent stands in the ledgers, which a deployment's sites keep to themselves."
ABSENT = "The ledgers are not in this run directory."


@dataclass(frozen=True)
class SiteSpent:
    """What a site's ledger holds of the data set: epsilon of all reserved releases at delta, how many, why it is unaccounted.

    epsilon is None where the ledger cannot be read; objection then says why.
    """

    site: str
    epsilon: float | None
    releases: int = 0
    unaccounted: bool = False
    objection: str = ""

    @property
    def words(self) -> str:
        """The epsilon as a table shows it."""
        if self.epsilon is None:
            return NOTHING
        return f"infinite; {rounded_up(self.epsilon)} accounted" if self.unaccounted else rounded_up(self.epsilon)


def privacy_sections(run: RunReader) -> list[dict[str, Any]]:
    """Return the sections of a run under differential privacy; none of any other run."""
    config = from_mapping(run.config, str(run.path / "config.yaml"))
    if not config.privacy.on or not config.private_rounds:
        return []
    from mpssl_fed.privacy.plan import plan_for  # here: it brings torch in

    plan = plan_for(config)
    spent = spent_by_site(run.path, config, plan.delta)
    done = run.rounds[-1].number
    rounds = [[str(entry["round"]), rounded_up(entry["epsilon"])] for entry in plan.epsilon_after_rounds()]
    by_site = [[own.site, rounded_up(plan.price()), own.words, str(own.releases), own.objection or "none"] for own in spent]
    columns = ["site", "epsilon planned", "epsilon spent", "releases", "objections"]
    of_sites = f"After {done} of {plan.rounds} rounds. A round is paid in full before its first read. " + (
        SIMULATED if spent else ELSEWHERE if config.federation.backend == "deployment" else ABSENT
    )
    return [
        {"title": "Privacy", "note": _words(plan), "table": make_table(["term", "value"], _terms(plan), ["term", "value"])},
        {"title": "Planned epsilon", "note": "After each round.", "table": make_table(["after round", "epsilon"], rounds)},
        {"title": "Epsilon by site", "note": of_sites, "table": make_table(columns, by_site, ["site", "objections"])},
    ]


def spent_by_site(folder: Path, config: Config, delta: float) -> list[SiteSpent]:
    """Return what each simulated site of a run directory has spent, by its ledger; empty where the ledgers are elsewhere.

    Of a deployment none is read, even where the rehearsal on one machine keeps them here: what was spent is the owner's to know.
    """
    if config.federation.backend == "deployment":
        return []
    found = []
    for site in RunReader(folder).sites:
        file = site / "ledger.sqlite"
        if not file.is_file():
            continue
        try:
            spent = Ledger(file).spent(config.data.name)
            epsilon = accounting.epsilon(spent.history, delta) if spent.history else 0.0
            found.append(SiteSpent(site.name, epsilon, sum(spent.history.values()), spent.unaccounted, "; ".join(spent.reasons)))
        except LedgerError as error:
            found.append(SiteSpent(site.name, None, objection=str(error)))
    return found


def _terms(plan: Plan) -> list[list[str]]:
    lines = [
        ["scope", plan.scope],
        ["unit", f"one {plan.unit}, added or removed, at one site"],
        ["delta", f"{plan.delta:g}"],
        ["epsilon asked for", f"{plan.epsilon:g}"],
        ["epsilon of the plan", rounded_up(plan.price())],
        *_trust(plan),
        ["public size", f"{plan.public_size} {plan.unit}s per site"],
        ["sample rate q", f"{plan.q:g}"],
        ["private steps", f"{plan.rounds} rounds of {plan.local_steps}"],
    ]
    for release in plan.releases():
        one = release.mechanism
        relative = f"noise over clip {one.relative_noise:.3g} per coordinate"
        words = f"sigma {one.sigma:.4g}, clip {one.sensitivity:g}, {release.steps} times; {relative}"
        lines.append([f"release '{one.kind}'", words])
    return lines


def _trust(plan: Plan) -> list[list[str]]:
    if plan.shared is None:
        return []
    who = plan.shared
    return [
        ["whose noise", f"of {who.honest} honest sites in each sum (of {who.sites}; {who.colluding} may collude)"],
        ["epsilon if no other site is honest", rounded_up(plan.price_alone())],
    ]


def _words(plan: Plan) -> str:
    covers = (
        "Every read of a private image is a noised release that epsilon covers." if plan.scope == "end-to-end" else LABELLED_STEP
    )
    return f"{covers} {NOT_COVERED}"
