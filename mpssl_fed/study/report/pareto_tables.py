"""The tables of a study of privacy: the front, the generator against none, attacks, and epsilon planned and spent."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.report.privacy_section import spent_by_site
from mpssl_fed.report.table import NOTHING, Table, make_table
from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of
from mpssl_fed.study.report.attacks import attack_success
from mpssl_fed.study.report.points import WITH, WITHOUT, Point, configs_of, epsilon_of, epsilon_words


def attack_table(outcome: Outcome, arms: Sequence[Arm]) -> Table:
    """Return how far attacks came on each attacked arm, by data set and epsilon."""
    configs = configs_of(outcome)
    lines = []
    for arm in arms:
        config, found = configs[arm_of(arm.settings)], attack_success(outcome, arm.rows)
        if found is not None and arm.mean is not None:
            areas = [row.membership for row in arm.rows if row.membership is not None]
            most = f"{max(areas):.3f}" if areas else NOTHING
            place = (config.data.name, epsilon_of(config), -found)
            lines.append((place, [place[0], epsilon_words(place[1]), arm.label, f"{found:.3f}", most, str(len(arm.rows))]))
    columns = ["data", "epsilon", "arm", "attack AUROC", "largest", "n"]
    return make_table(columns, [line for _, line in sorted(lines)], ["data", "arm"])


def front_table(points: Sequence[Point]) -> Table:
    """Return the points on the front by data set and epsilon."""
    best = sorted((point for point in points if point.on_front), key=lambda point: (point.group, point.epsilon))
    lines = []
    for point in best:
        half = f" ± {100 * point.accuracy.half:.1f}" if point.accuracy.half is not None else ""
        success = NOTHING if point.success is None else f"{point.success:.2f}"
        lines.append([
            point.group, epsilon_words(point.epsilon), point.label, f"{100 * point.accuracy.mean:.1f}{half}", str(point.accuracy.n),
            WITH if point.generator else WITHOUT, success,
        ])  # fmt: skip
    columns = ["data", "epsilon", "arm", "accuracy (%)", "n", "generator", "attack AUROC"]
    if all(point.success is None for point in best):
        columns, lines = columns[:-1], [line[:-1] for line in lines]
    return make_table(columns, lines, ["data", "arm", "generator"])


def spent_table(outcome: Outcome, arms: Sequence[Arm]) -> Table:
    """Return planned and spent epsilon of the arms whose ledgers are here."""
    from mpssl_fed.privacy.plan import plan_for  # here: it brings torch in

    configs = configs_of(outcome)
    lines = []
    for arm in arms:
        config = configs[arm_of(arm.settings)]
        if not config.privacy.on or not config.private_rounds:
            continue
        plan = plan_for(config)
        ledgers = [site for row in arm.rows for site in spent_by_site(outcome.folder(row), config, plan.delta)]
        known = [site.epsilon for site in ledgers if site.epsilon is not None]
        if not known:
            continue
        beyond = sum(site.unaccounted for site in ledgers)
        unread = len(ledgers) - len(known)
        words = [f"{unread} cannot be read"] * bool(unread) + [f"{beyond} read outside the accounting"] * bool(beyond)
        lines.append([
            arm.label, f"{config.privacy.epsilon:g}", rounded_up(plan.price()), rounded_up(min(known)), rounded_up(max(known)),
            str(len(ledgers)), f"{plan.sigma_gradient:.3g}", ", ".join(words) or "none",
        ])  # fmt: skip
    columns = ["arm", "asked", "planned", "least spent", "most spent", "ledgers", "sigma", "objections"]
    return make_table(columns, lines, ["arm", "objections"])
