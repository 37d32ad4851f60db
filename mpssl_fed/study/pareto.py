"""Epsilon against accuracy in a study's report: which arms no other dominates, and what their sites' ledgers say was spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.report.privacy_section import spent_by_site
from mpssl_fed.report.svg import INK, MUTED, SERIES, figure, plain_grid, save, within
from mpssl_fed.report.table import NOTHING, Table, make_table
from mpssl_fed.runs.reader import read_json, read_manifest
from mpssl_fed.study.analysis import Arm, paired
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of, label
from mpssl_fed.study.plots import interval
from mpssl_fed.study.results import Row
from mpssl_fed.study.statistics import Estimate, compare

WITH, WITHOUT = "with the public generator", "without it"
SIDE = {True: 0.09, False: -0.09}
"""Where a point stands beside its epsilon's tick, by whether its arm uses the generator."""
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


@dataclass(frozen=True)
class Point:
    """An arm on the plane. epsilon: 0 reads no private image, infinity has no privacy; success: AUROC of attacks, if audited."""

    label: str
    group: str
    epsilon: float
    accuracy: Estimate
    generator: bool
    complete: bool
    success: float | None = None
    on_front: bool = False


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (epsilon, accuracy) whether no other has epsilon as small and accuracy as high, one of them strictly."""
    return [
        not any(other_eps <= eps and other_acc >= acc and (other_eps < eps or other_acc > acc) for other_eps, other_acc in points)
        for eps, acc in points
    ]


def epsilon_of(config: Config) -> float:
    """Return the epsilon that a run claims: 0 where it asks no site, infinity without privacy."""
    if not config.private_rounds:
        return 0.0
    return math.inf if not config.privacy.on or config.privacy.epsilon is None else config.privacy.epsilon


def uses_generator(config: Config) -> bool:
    """Whether anything that a run trains has seen the public generator."""
    return config.method.source not in ("none", "real") or config.warm_start.part != "none" or config.federation.anchor.weight > 0


def points_of(outcome: Outcome, arms: Sequence[Arm]) -> list[Point]:
    """Return the arms that have finished seeds, by data set in the study's order, those on their data set's front marked."""
    configs = _configs(outcome)
    points = []
    for arm in arms:
        config = configs[arm_of(arm.settings)]
        if arm.mean is None:
            continue
        settings = {key: value for key, value in outcome.plan.telling(arm.settings).items() if key not in _SHOWN_ELSEWHERE}
        points.append(
            Point(
                label=label(settings),
                group=config.data.name,
                epsilon=epsilon_of(config),
                accuracy=arm.mean,
                generator=uses_generator(config),
                complete=config.privacy.scope != "labelled-step",
                success=attack_success(outcome, arm.rows),
            )
        )
    marked = []
    for group in dict.fromkeys(point.group for point in points):
        own = [point for point in points if point.group == group]
        able = [point for point in own if point.complete]
        best = front([(point.epsilon, point.accuracy.mean) for point in able])
        flags = {id(point): flag for point, flag in zip(able, best, strict=True)}
        marked += [replace(point, on_front=flags.get(id(point), False)) for point in own]
    return marked


_SHOWN_ELSEWHERE = (
    "privacy.epsilon",
    "data.name",
    "data.labels_per_class",
    "data.label_fraction",
    "privacy.public_size",
    "optim.lr",
)


def attack_success(outcome: Outcome, rows: Sequence[Row]) -> float | None:
    """Return the area under the curve of the membership attack of each run, or of the best one where its sites were audited with
    more, averaged over the arm; None without one."""
    found: list[float] = []
    for row in rows:
        audited = len(found)
        for file in sorted(outcome.folder(row).glob("sites/*/audit/audit.json")):
            attacks = _membership_attacks(file, outcome.folder(row))
            if attacks:
                found.append(max(attacks))
        if len(found) == audited and row.membership is not None:
            found.append(row.membership)
    return sum(found) / len(found) if found else None


def _membership_attacks(file: Path, run: Path) -> list[float]:
    """Return the areas of an audit's attacks; none where it was of a run that has since been overwritten."""
    audit = read_json(file)
    try:
        of = audit.get("facts", {}).get("run", "-")
        if of != "-" and of != read_manifest(run)["run_id"]:
            return []
        return [float(attack["auroc"]["value"]) for attack in audit["audits"].get("membership", {}).get("numbers", [])]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file}: damaged ({error!r}); remove it, or audit anew") from error


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


def attack_table(outcome: Outcome, arms: Sequence[Arm]) -> Table:
    """Return how far attacks came on each attacked arm, by data set and epsilon."""
    configs = _configs(outcome)
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


def against_table(outcome: Outcome, arms: Sequence[Arm]) -> Table:
    """Return what the public generator adds at each epsilon, each side at its best, and against the baseline's largest epsilon."""
    configs = _configs(outcome)
    places: dict[tuple[str, float], list[Arm]] = {}
    for arm in arms:
        config = configs[arm_of(arm.settings)]
        if arm.mean is not None and config.privacy.scope == "end-to-end":
            places.setdefault((config.data.name, epsilon_of(config)), []).append(arm)
    contests: list[tuple[str, float, Arm, Arm]] = []
    for (data, epsilon), here in sorted(places.items(), key=lambda place: place[0]):
        seen = [arm for arm in here if uses_generator(configs[arm_of(arm.settings)])]
        unseen = [arm for arm in here if arm not in seen]
        largest = max(other for name, other in places if name == data)
        rivals = [max(unseen, key=_mean)] if unseen else []
        rivals += [arm for arm in places[data, largest] if arm.is_baseline and largest > epsilon]
        contests += [(data, epsilon, max(seen, key=_mean), rival) for rival in rivals if seen]
    study = outcome.plan.study
    pairs = {str(n): paired(one.rows, other.rows, study, "accuracy") for n, (_, _, one, other) in enumerate(contests)}
    results = compare(pairs)
    lines = []
    for number, (data, epsilon, first, second) in enumerate(contests):
        found = results.get(str(number))
        if found is not None:
            half = f" ± {100 * found.difference.half:.1f}" if found.difference.half is not None else ""
            q = NOTHING if found.corrected is None else f"{found.corrected:.2g}"
            lines.append([
                data, epsilon_words(epsilon), first.label, second.label, f"{100 * found.difference.mean:+.1f}{half}",
                str(found.difference.n), q, f"{found.verdict}, exploratory",
            ])  # fmt: skip
    columns = ["data", "epsilon", "best with the generator", "against", "difference (points)", "n", "q", "verdict"]
    return make_table(columns, lines, ["data", "best with the generator", "against", "verdict"])


def _mean(arm: Arm) -> float:
    return arm.mean.mean if arm.mean is not None else -math.inf


def spent_table(outcome: Outcome, arms: Sequence[Arm]) -> Table:
    """Return planned and spent epsilon of the arms whose ledgers are here."""
    configs = _configs(outcome)
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


def plot(folder: Path, points: Sequence[Point]) -> str:
    """Plot the points by epsilon, in steps of the values that occur, one panel a data set; return the SVG for the page."""
    groups = list(dict.fromkeys(point.group for point in points))
    values = sorted({point.epsilon for point in points})
    with figure("pareto", 1.4 + 4.2 * len(groups), 3.9) as drawn:
        panels = drawn.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, groups, strict=True):
            own = [point for point in points if point.group == group]
            best = sorted((point for point in own if point.on_front), key=lambda point: point.epsilon)
            at = [values.index(point.epsilon) + SIDE[point.generator] for point in best]
            axes.step(at, [100 * p.accuracy.mean for p in best], where="post", color=MUTED, linewidth=1.0, zorder=1)
            axes.plot(at, [100 * p.accuracy.mean for p in best], "o", markersize=11, markerfacecolor="none", color=MUTED,
                      zorder=1, clip_on=False)  # fmt: skip
            for name, generator, marker in ((WITHOUT, False, "s"), (WITH, True, "o")):
                chosen = [point for point in own if point.generator == generator]
                for number, point in enumerate(chosen):
                    _draw(
                        axes,
                        point,
                        values.index(point.epsilon) + SIDE[generator],
                        SERIES[int(generator)],
                        marker,
                        "" if number else name,
                    )
            axes.set_xticks(range(len(values)), [epsilon_words(value) for value in values])
            axes.set(xlabel="Epsilon", title=group if len(groups) > 1 else "", ylabel="Accuracy (%)" if axes is panels[0] else "")
            axes.set_xlim(-0.5, len(values) - 0.5)
            plain_grid(axes, "y")
        within(panels[0], "y", "%")
        handles = {word: handle for axes in panels for handle, word in zip(*axes.get_legend_handles_labels(), strict=True)}
        drawn.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=2)
        return save(drawn, folder, "pareto", "Accuracy against epsilon, arms that no other dominates ringed")


def epsilon_words(epsilon: float) -> str:
    """Return an epsilon as an axis shows it."""
    return "∞" if math.isinf(epsilon) else f"{epsilon:g}"


def _draw(axes: Any, point: Point, x: float, colour: str, marker: str, name: str) -> None:
    """Draw one point; where it was audited, its size grows with the attacks' success."""
    size = 4.5 if point.success is None else 4 + 30 * max(0.0, point.success - 0.5)
    face = colour if point.complete else "none"
    low, high = interval(point.accuracy, (0.0, 1.0))
    reach = [[100 * (point.accuracy.mean - low)], [100 * (high - point.accuracy.mean)]]
    axes.errorbar(
        x, 100 * point.accuracy.mean, yerr=reach, color=colour, marker=marker, markersize=size, markerfacecolor=face,
        elinewidth=0.9, linestyle="", label=name or None, alpha=0.9, clip_on=False,
    )  # fmt: skip
    if point.on_front:
        axes.annotate(f"{100 * point.accuracy.mean:.1f}", (x, 100 * point.accuracy.mean), xytext=(9, -3), color=INK, fontsize=8,
                      textcoords="offset points")  # fmt: skip


def _configs(outcome: Outcome) -> Mapping[str, Config]:
    return {arm_of(cell.settings): cell.config for cell in outcome.plan.cells}


def _compares_privacy(outcome: Outcome) -> bool:
    return any(cell.config.privacy.on for cell in outcome.plan.cells)
