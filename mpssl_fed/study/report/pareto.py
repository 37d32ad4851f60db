"""Epsilon against accuracy in a study's report: which arms no other dominates, and what their sites' ledgers say was spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.report.against import against_table
from mpssl_fed.study.report.pareto_plot import plot
from mpssl_fed.study.report.pareto_tables import attack_table, front_table, spent_table
from mpssl_fed.study.report.points import points_of

CAPTION = (
    "Mean over seeds with 95 % interval; ringed and joined: no arm has as high a mean accuracy at a smaller epsilon, or a higher "
    "one at the same. Larger: more of its training images are told from others by a membership attack. Epsilon 0 reads no "
    "private image; hollow: labelled-step, whose epsilon leaves out what the method reads besides, so it is never on the front."
)
AGAINST_NOTE = (
    "The arm of the best mean at an epsilon among those that use the public generator, against the best of those that do not, and "
    "against the baseline at the study's largest epsilon. Differences are paired by seed; exploratory, q over this table. "
    "Both are the best of several by these very seeds, which flatters them a little; labelled-step takes no part."
)
ATTACK_NOTE = (
    "Loss-threshold attack on the published model: up to 1,000 training images of all sites against as many that no site had; 0.5 "
    "is a coin, and 1,000 per side leave 0.025 to chance. A low number is no proof of privacy: epsilon bounds every attack, this "
    "is the cheapest one. Shadow models: `mpssl-fed audit RUN`."
)
SPENT_NOTE = (
    "Planned: the price of the whole plan at delta, which sigma is solved for. Spent: by the ledgers of the simulated sites in the "
    "run directories that are here; the least and the most over sites and seeds."
)


def pareto_figures(outcome: Outcome, arms: Sequence[Arm]) -> list[dict[str, str]]:
    """Return the figure; none for a study whose arms do not differ in privacy."""
    if not _compares_privacy(outcome):
        return []
    points = points_of(outcome, arms)
    return (
        [{"title": "Epsilon against accuracy", "svg": plot(outcome.output / "plots", points), "caption": CAPTION}] if points else []
    )


def pareto_sections(outcome: Outcome, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return the tables below it: the front, and planned against spent; none for a study without private arms."""
    if not _compares_privacy(outcome):
        return []
    spent = spent_table(outcome, arms)
    sections = [{"title": "Pareto front", "note": CAPTION, "table": front_table(points_of(outcome, arms))}]
    against = against_table(outcome, arms)
    if against.rows:
        sections.append({"title": "With the public generator against without it", "note": AGAINST_NOTE, "table": against})
    attacks = attack_table(outcome, arms)
    if attacks.rows:
        sections.append({"title": "Membership attacks", "note": ATTACK_NOTE, "table": attacks})
    return sections + ([{"title": "Epsilon planned and spent", "note": SPENT_NOTE, "table": spent}] if spent.rows else [])


def _compares_privacy(outcome: Outcome) -> bool:
    return any(cell.config.privacy.on for cell in outcome.plan.cells)
