"""Epsilon spent and left, by the ledgers, the policy or the plan; what it means in odds; and the plot of epsilon against delta."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpssl_fed.config import from_mapping
from mpssl_fed.dossier import odds
from mpssl_fed.dossier.facts import Fact, Section, Source, absent, word
from mpssl_fed.dossier.subject import LEDGER, Subject
from mpssl_fed.privacy.accounting import epsilon
from mpssl_fed.privacy.filter import EXCLUSIVE, rounded_up
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.shared.history import unlisted
from mpssl_fed.report import svg
from mpssl_fed.runs.reader import CONFIG

TRADE_OFF = "(e^epsilon + delta) / (1 + e^epsilon)"
BY_CURVE = "the smallest such bound over the curve of epsilon against delta"
FOUND = "the smallest bound at 1 % of false alarms over the curve of epsilon against delta"
NOTE = (
    "epsilon bounds what anyone can learn about one unit from all that was released: the smaller the less. delta is the "
    "probability with which the bound may fail. An attacker guesses whether one unit was among the data; before, it is as likely "
    "as not. The chance of a right guess is bounded by the trade-off function of hypothesis tests (Wasserman and Zhou 2010; "
    "Kairouz, Oh and Viswanath 2015; Dong, Roth and Su 2022). Numbers are rounded up."
)
HELD = "Every point on the line holds. Where it meets the bottom, delta alone is what an attacker gains over a coin, at most."
FROM = "from 50 % to at most "
UNBOUNDED = f"{FROM}100.0 %: nothing bounds it"
SCOPE = "scope of the guarantee"
MOST_PLOTS = 4


def spending(subject: Subject) -> Section:
    """Return the section on epsilon; in odds wherever there is a number."""
    facts = list(_promised(subject))
    curves: dict[odds.Curve, list[str]] = dict(_planned_curve(subject))
    for site, file in subject.ledgers:
        of = f"site {site}, " if site else ""
        for index, told in enumerate(subject.told(file)["data_sets"]):
            source = _Told(subject.name(file), f"data_sets.{index}")
            facts += _of_data_set(of, told, source)
            curve = _curve(told)
            if curve is not None:
                facts += _by_curve(
                    f"{of}data set {told['data_set']}: after all that was released", told["unit"], curve, source.at("history")
                )
                curves.setdefault(curve, []).append(f"{of}data set {told['data_set']}")
    facts += _missing(subject)
    pictures = tuple(_plot(number, curve, names) for number, (curve, names) in enumerate(list(curves.items())[:MOST_PLOTS]))
    return Section("Privacy loss, and what it means in odds", NOTE, tuple(facts), pictures)


def headline(section: Section) -> Fact | None:
    """Return the line on odds that says most: by the whole curve where there is one, of what was spent before what may be; of
    several sites the worst; where nothing is bounded, the line that says so. None where no file says either."""
    facts = [fact for fact in section.facts if fact.source is not None and fact.value.startswith(FROM)]
    unbounded = [fact for fact in facts if fact.value.startswith(UNBOUNDED)]
    for one in unbounded:
        return one
    spent = [fact for fact in facts if fact.source is not None and LEDGER in fact.source.file]
    by_curve = [fact for fact in spent if fact.source is not None and fact.source.how == BY_CURVE]
    chosen = (by_curve if _data_sets(by_curve) == _data_sets(spent) else spent) or facts
    scope = next((fact for fact in section.facts if fact.name == SCOPE), None)
    return max(chosen, key=lambda fact: float(fact.value.removesuffix(" %").rpartition(" ")[2]), default=scope)


def _data_sets(facts: list[Fact]) -> set[tuple[str, ...]]:
    """Return (ledger, number of the data set) of what the facts speak of."""
    return {(fact.source.file, *fact.source.key.split(".")[:2]) for fact in facts if fact.source is not None}


class _Told:
    """Where in a ledger, as told, a data set stands."""

    def __init__(self, file: str, key: str) -> None:
        self._file, self._key = file, key

    def at(self, key: str, how: str = "") -> Source:
        return Source(self._file, f"{self._key}.{key}", how)


def _promised(subject: Subject) -> Iterator[Fact]:
    """Yield what config and policy set: no more than that may ever be spent."""
    privacy = subject.config.get("privacy", {})
    if privacy and privacy["scope"] != "off":
        for key, name in {"epsilon": "epsilon that the run asks for", "delta": "delta", "unit": "unit that is protected"}.items():
            yield Fact(name, word(privacy[key]), Source(CONFIG, f"privacy.{key}"))
        if privacy.get("trust") == "sum":
            yield from _trusting(subject)
        if privacy["scope"] == "end-to-end":
            source = Source(CONFIG, "privacy.epsilon", TRADE_OFF)
            yield _chance("if the run is done to its end", privacy["unit"], privacy["epsilon"], privacy["delta"], source)
    policy = subject.policy
    if policy is not None:
        file = subject.name(subject.policy_file) if subject.policy_file else ""
        for key, name in {
            "max_epsilon": "most epsilon over the data set's whole life",
            "delta": "delta",
            "unit": "unit that is protected",
        }.items():
            yield Fact(name, word(getattr(policy, key)), Source(file, key))
        yield _chance(
            "if the whole budget is spent", policy.unit, policy.max_epsilon, policy.delta, Source(file, "max_epsilon", TRADE_OFF)
        )


def _of_data_set(of: str, told: dict[str, Any], source: _Told) -> Iterator[Fact]:
    name = f"{of}data set {told['data_set']}"
    unit = told["unit"] or "unit"
    if told["unaccounted"]:
        yield Fact(f"{name}: epsilon", "infinite: images were read without noise", source.at("unaccounted"))
        yield Fact(f"{name}: why", word(told["unaccounted"]), source.at("unaccounted"))
        yield Fact(
            f"{name}: chance to tell whether one {unit} was there",
            UNBOUNDED,
            source.at("unaccounted"),
        )
    elif told["epsilon"] is not None:
        yield Fact(f"{name}: epsilon spent over its life, per {unit}", rounded_up(told["epsilon"]), source.at("epsilon"))
        yield Fact(f"{name}: delta", word(told["delta"]), source.at("delta"))
        yield _chance(f"{name}: after all that was released", unit, told["epsilon"], told["delta"], source.at("epsilon", TRADE_OFF))
        if "epsilon_alone" in told:
            alone = f"{name}: epsilon if no other site in the sums that covered it was honest, per {unit}"
            yield Fact(alone, rounded_up(told["epsilon_alone"]), source.at("epsilon_alone"))
        if told.get("remaining") is not None:
            left = max(0.0, told["max_epsilon"] - float(rounded_up(told["epsilon"])))
            yield Fact(f"{name}: epsilon left, per {unit}", f"{left:.3f}", source.at("remaining"))
    yield Fact(f"{name}: releases", word(told["releases"]), source.at("releases"))
    for index, run in enumerate(told["runs"]):
        yield from _of_run(name, run, source, index)


def _of_run(name: str, run: dict[str, Any], source: _Told, index: int) -> Iterator[Fact]:
    of, unit, key = f"{name}, run {run['run']}", run["unit"] or "unit", f"runs.{index}"
    for part in ("scope", "terms", "rounds", "evaluations", "first", "last"):
        yield Fact(f"{of}: {part}", word(run[part]), source.at(f"{key}.{part}"))
    covers = "" if run["scope"] == "end-to-end" else " (of the labelled step alone)"
    yield Fact(f"{of}: epsilon spent, per {unit}{covers}", rounded_up(run["epsilon_spent"]), source.at(f"{key}.epsilon_spent"))
    yield Fact(
        f"{of}: epsilon planned, per {unit}{covers}", rounded_up(run["epsilon_planned"]), source.at(f"{key}.epsilon_planned")
    )
    yield Fact(f"{of}: delta", word(run["delta"]), source.at(f"{key}.delta"))
    if not covers:
        yield _chance(
            f"{of}: after what was spent", unit, run["epsilon_spent"], run["delta"], source.at(f"{key}.epsilon_spent", TRADE_OFF)
        )


def _trusting(subject: Subject) -> Iterator[Fact]:
    """Yield whose noise a run counts on, and what its whole plan leaves where that is not there."""
    plan = plan_for(from_mapping(subject.config, str(subject.path / CONFIG)))
    if plan.shared is None:
        return
    source, own = Source(CONFIG, "privacy.trust", "the price of the plan, of a site's own part of the noise"), plan.price_alone()
    yield Fact(
        "whose noise covers a site",
        f"that of {plan.shared.honest} honest sites in each masked sum, its own among them",
        Source(CONFIG, "privacy.trust"),
    )
    yield Fact("epsilon of the whole run if no other site in the sums is honest", rounded_up(own), source)
    told = "100.0 %: nothing bounds it" if math.isinf(own) else odds.percent(odds.success(own, plan.delta))
    unit = f"an attacker's chance to tell whether one {plan.unit} was there"
    yield Fact(f"if no other site in the sums is honest: {unit}", f"at most {told}", source)


def _chance(of: str, unit: str, spent: float, delta: float, source: Source) -> Fact:
    return Fact(
        f"{of}: an attacker's chance to tell whether one {unit} was there",
        f"{FROM}{odds.percent(odds.success(spent, delta))}",
        source,
    )


def _by_curve(of: str, unit: str | None, curve: odds.Curve, source: Source) -> Iterator[Fact]:
    yield Fact(
        f"{of}: an attacker's chance to tell whether one {unit or 'unit'} was there, by all pairs of epsilon and delta",
        f"{FROM}{odds.percent(curve.success)}",
        Source(source.file, source.key, BY_CURVE),
    )
    yield Fact(
        f"{of}: of every 100 {unit or 'unit'}s that were there, found by a test that accuses 1 of 100 that were not",
        f"at most {odds.percent(curve.found)}",
        Source(source.file, source.key, FOUND),
    )


def _curve(told: dict[str, Any]) -> odds.Curve | None:
    """Return the curve of a data set, None where no single plan, fixed beforehand, is behind what was released.

    The releases of later runs may follow from earlier answers; then only the filter's one pair (epsilon, delta) holds, but for an
    exclusive run.
    """
    runs = told["runs"]
    if told["unaccounted"] or not told["history"] or (len(runs) != 1 and EXCLUSIVE not in [run["terms"] for run in runs]):
        return None
    history = unlisted(told["history"])
    if any(epsilon(history, run["delta"]) != run["epsilon_spent"] for run in runs[:1]):
        return None  # a booked gap, of plans that nobody knows
    return odds.curve(history, {told["delta"], *(run["delta"] for run in runs)})


def _planned_curve(subject: Subject) -> Iterator[tuple[odds.Curve, list[str]]]:
    """Yield the curve of the whole plan of a deployed run, whose ledgers are the sites'."""
    if not subject.deployed:
        return
    config = from_mapping(subject.config, str(subject.path / CONFIG))
    if config.privacy.scope == "end-to-end" and config.private_rounds:
        plan = plan_for(config)
        yield odds.curve(plan.history(), {plan.delta}), ["the run's plan"]


def _missing(subject: Subject) -> Iterator[Fact]:
    privacy = subject.config.get("privacy", {})
    if privacy and privacy["scope"] != "end-to-end":
        covers = "no privacy loss is bounded" if privacy["scope"] == "off" else "epsilon covers the labelled step alone"
        yield Fact(SCOPE, f"{privacy['scope']}: {covers}", Source(CONFIG, "privacy.scope"))
    if subject.deployed:
        yield absent(
            "epsilon spent at each site", "it stands in the sites' own ledgers: `mpssl-fed dossier STATE --policy POLICY` there"
        )
    elif not subject.ledgers:
        yield absent("ledger", f"no {LEDGER} lies here: nothing was charged")
    if not subject.is_run and subject.policy is None:
        yield absent("policy, and so what is left of the budget", "name it by --policy")


def _plot(number: int, curve: odds.Curve, names: list[str]) -> tuple[str, str]:
    """Return the curve as SVG and its caption."""
    with svg.figure(f"odds-{number}", 5.2, 3.0) as drawn, tempfile.TemporaryDirectory() as scratch:
        axes = drawn.subplots()
        axes.plot([delta for delta, _ in curve.points], [epsilon for _, epsilon in curve.points], color=svg.SERIES[0])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # matplotlib's own is TeX
        axes.set_ylim(bottom=0)
        axes.set(xlabel="delta", ylabel="epsilon", title="Pairs of epsilon and delta that hold")
        axes.margins(x=0)
        picture = svg.save(drawn, Path(scratch), f"odds-{number}", f"epsilon against delta: {'; '.join(names)}")
    return picture, f"{'; '.join(names)}. {HELD}"
