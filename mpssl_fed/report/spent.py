"""What a data set has spent, as ``ledger show`` tells it: one number, the very one that admits runs, never less than was spent."""

from __future__ import annotations

from typing import Any

from mpssl_fed.privacy.accounting import epsilon
from mpssl_fed.privacy.filter import AnyFilter, RenyiFilter, known_limit, lifetime_alone, lifetime_epsilon, limit_of, rounded_up
from mpssl_fed.privacy.ledger_rows import Spent
from mpssl_fed.privacy.policy import Policy
from mpssl_fed.privacy.shared.history import listed, shared_steps

DELTA = 1e-5
"""Where neither a policy nor a run says any."""


def told_of(spent: Spent, policy: Policy | None, delta: float | None, simulated: bool) -> dict[str, Any]:
    """Return a data set's spending as JSON; epsilon is null where it is infinite, or where runs do not compose.

    The limit is the policy's, where it names this data set, else the one that every run put down. Where there is none, or
    another ``delta`` is asked, epsilon is the most that any filter at that delta makes of it.
    """
    limit = _limit(spent, policy, delta)
    units = {policy.unit} if policy is not None and policy.dataset == spent.dataset else spent.units
    bare = Spent(spent.dataset, spent.history, spent.runs)
    accounted = None if simulated else lifetime_epsilon(limit, bare)
    told: dict[str, Any] = {
        "data_set": spent.dataset,
        "delta": limit.delta,
        "unit": units.pop() if len(units) == 1 else None,
        "epsilon": None if spent.unaccounted else accounted,
        "epsilon_accounted": accounted,
        "unaccounted": spent.reasons,
        "releases": sum(spent.history.values()),
        "history": listed(spent.history),
        "first": spent.first or None,
        "last": spent.last or None,
        "runs": [_run(name, spent, limit.delta) for name in spent.runs],
    }
    if shared_steps(spent.history) and accounted is not None:
        told["epsilon_alone"] = lifetime_alone(limit, bare)
    if isinstance(limit, RenyiFilter) and not simulated:
        life = told["epsilon"]
        told |= {
            "max_epsilon": limit.max_epsilon,
            "epsilon_lifetime": life,
            "epsilon_filter": limit.epsilon(spent.history),
            "remaining": None if life is None else max(0.0, limit.max_epsilon - life),
        }
    return told


def told_lines(told: dict[str, Any]) -> list[str]:
    """Return the JSON form as lines to read."""
    unit = f"per {told['unit']}, " if told["unit"] else ""
    at = f"{unit}at delta {told['delta']:g}"
    accounted, epsilon_ = told["epsilon_accounted"], told["epsilon"]
    lines = [told["data_set"]]
    if told["unaccounted"]:
        part = "" if accounted is None else f" (accounted part {rounded_up(accounted)}, {at})"
        lines += [f"  epsilon infinite{part}", *(f"  unaccounted: {reason}" for reason in told["unaccounted"])]
    elif epsilon_ is None:
        lines[0] += ": by run"
    elif "max_epsilon" in told:
        left = told["max_epsilon"] - float(rounded_up(epsilon_))
        lines.append(
            f"  epsilon {rounded_up(epsilon_)} of {told['max_epsilon']:g} spent over its life, {at}; {max(left, 0):.3f} left"
        )
    else:
        lines.append(f"  epsilon {rounded_up(epsilon_)} at most spent over its life, {at}; --policy tells what is left")
    if "epsilon_alone" in told:
        lines.append(f"  epsilon {rounded_up(told['epsilon_alone'])} if no other site in those sums is honest")
    if told["releases"]:
        lines.append(f"  {told['releases']} releases, {_span(told)}")
        lines += [f"    sigma {sigma:g}, q {q:g}: {n} times{_sharing(who)}" for sigma, q, n, *who in told["history"]]
    lines += [_run_line(run, told["unit"]) for run in told["runs"]]
    return lines


def _limit(spent: Spent, policy: Policy | None, delta: float | None) -> RenyiFilter | AnyFilter:
    runs = spent.runs.values()
    if policy is not None and policy.dataset == spent.dataset:
        limit: RenyiFilter | AnyFilter = limit_of(policy)
    else:
        limit = known_limit((run.limit for run in runs), (run.plan.get("delta") for run in runs), DELTA)
    return limit if delta in (None, limit.delta) else AnyFilter(delta or DELTA)


def _run(name: str, spent: Spent, delta: float) -> dict[str, Any]:
    run = spent.runs[name]
    own = float(run.plan.get("delta", delta))
    return {
        "run": name,
        "scope": run.scope,
        "terms": run.terms,
        "commitment": run.commitment,
        "unit": run.plan.get("unit"),
        "delta": own,
        "rounds": run.rounds,
        "evaluations": run.evaluations,
        "first": run.first or None,
        "last": run.last or None,
        "epsilon_planned": epsilon(run.planned, own),
        "epsilon_spent": epsilon(run.reserved, own),
    }


def _run_line(run: dict[str, Any], unit: str | None) -> str:
    of_unit = f", per {run['unit']}" if run["unit"] and run["unit"] != unit else ""
    when = f", {_span(run)}" if run["first"] else ""
    rounds = f"{run['rounds']} round{'' if run['rounds'] == 1 else 's'}"
    if run["evaluations"]:
        rounds += f" and {run['evaluations']} evaluation{'' if run['evaluations'] == 1 else 's'}"
    return (
        f"  run {run['run']} ({run['scope']}, {run['terms']}), {rounds}{when}: epsilon "
        f"{rounded_up(run['epsilon_spent'])} of {rounded_up(run['epsilon_planned'])} planned{of_unit}, at delta {run['delta']:g}"
    )


def _sharing(who: list[int]) -> str:
    return f", its part of the noise of {who[0]} honest sites" if who else ""


def _span(told: dict[str, Any]) -> str:
    first, last = (str(told[key])[:16].replace("T", " ") for key in ("first", "last"))
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"
