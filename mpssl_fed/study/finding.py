"""The sentence that a study's report begins with: which arm is best, and whether it or anything differs beyond noise."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.report.chance import at_chance
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study.analysis import Arm, Asked, best_arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.statistics import FEWEST, Comparison, Estimate

METRIC = {"accuracy": "accuracy", "best": "best-round accuracy", "loss": "loss"}


def study_finding(outcome: Outcome, arms: Sequence[Arm], asked: Sequence[Asked]) -> str:
    """Return what the study found, in a sentence; a second one where even the best arm has learnt nothing."""
    metric = outcome.plan.study.metric
    best = best_arm(arms, metric)
    if best is None:
        return "No cell has finished yet, so there is nothing to compare."
    named = [(arm.label, "its baseline", arm.comparison) for arm in arms if arm.comparison is not None]
    named += [(a.arm.label, a.against.label, a.comparison) for a in asked if a.comparison is not None]
    found = {(label, id(comparison)): (label, other, comparison) for label, other, comparison in named}
    compared = [(label, other, comparison) for label, other, comparison in found.values() if comparison is not None]
    telling = [one for one in compared if one[2].verdict in ("better", "worse")]
    if not compared:
        said = _untested(arms, best, metric)
    elif not telling:
        said = _noise(compared, metric)
    else:
        said = _differs(best, compared, metric)
    return said + _chance(outcome, best)


def _untested(arms: Sequence[Arm], best: Arm, metric: str) -> str:
    others = [arm for arm in arms if arm is not best and arm.mean is not None]
    assert best.mean is not None
    of_best = f"{_value(best.mean, metric)} over {_seeds(best.mean.n)}"
    if not others:
        return f"{best.label} has a mean {METRIC[metric]} of {of_best}; no other arm has finished."
    second = best_arm(others, metric)
    assert second is not None
    assert second.mean is not None
    return (
        f"{best.label} has the best mean {METRIC[metric]}, {of_best}, before "
        f"{second.label} with {_value(second.mean, metric)}; nothing was tested, since no baseline is named or none has finished, "
        "so their order may be noise."
    )


def _noise(compared: Sequence[tuple[str, str, Comparison]], metric: str) -> str:
    label, other, largest = max(compared, key=lambda one: abs(one[2].difference.mean))
    seeds = max(comparison.difference.n for _, _, comparison in compared)
    if seeds < FEWEST:
        why = f"{_seeds(seeds)} cannot tell a difference from noise; it takes {FEWEST} or more"
    else:
        why = f"none of {_comparisons(len(compared))} over {_seeds(seeds)} has a corrected p below 0.05"
    most = f"The largest difference is that of {label} from {other}, {_difference(largest, metric)}."
    return f"Nothing differs beyond noise: {why}. {most}"


def _differs(best: Arm, compared: Sequence[tuple[str, str, Comparison]], metric: str) -> str:
    assert best.mean is not None
    said = f"{best.label} has the best mean {METRIC[metric]}, {_value(best.mean, metric)} over {_seeds(best.mean.n)}"
    if best.is_baseline:
        said += ", and is a baseline"
    elif best.comparison is not None:
        said += f": {_difference(best.comparison, metric)} against its baseline, {_verdict(best.comparison)}"
    else:
        said += ", with no baseline to compare it with"
    counts = {verdict: sum(c.verdict == verdict for _, _, c in compared) for verdict in ("better", "worse")}
    said += f"; of {_comparisons(len(compared))}, {counts['better']} came out better and {counts['worse']} worse beyond noise"
    clear = [one for one in compared if one[2].verdict == "better"]
    if clear and (best.comparison is None or best.comparison.verdict != "better"):
        label, other, most = max(clear, key=lambda one: abs(one[2].difference.mean))
        said += f", most of all {label} than {other}: {_difference(most, metric)}"
    return said + "."


def _chance(outcome: Outcome, best: Arm) -> str:
    """Return a warning where every run of the best arm that is here ends within noise of chance."""
    here = [folder for row in best.rows if ((folder := outcome.folder(row)) / "metrics.jsonl").is_file()]
    return (
        " Even the best arm ends within noise of chance." if here and all(at_chance(RunReader(folder)) for folder in here) else ""
    )


def _difference(comparison: Comparison, metric: str) -> str:
    unit = "" if metric == "loss" else " points"
    p = (
        ""
        if comparison.p_holm is None
        else f", corrected p {'< 0.001' if comparison.p_holm < 0.001 else f'{comparison.p_holm:.3f}'}"
    )
    interval = "" if comparison.difference.half is None else "95 % interval, "
    return f"{_value(comparison.difference, metric, '+', '')}{unit} ({interval}{_seeds(comparison.difference.n)}{p})"


def _verdict(comparison: Comparison) -> str:
    return f"{comparison.verdict} beyond noise" if comparison.verdict in ("better", "worse") else "which is within noise"


def _value(value: Estimate, metric: str, sign: str = "", unit: str = " %") -> str:
    scale, digits, unit = (1, 3, "") if metric == "loss" else (100, 1, unit)
    half = "" if value.half is None else f" ± {scale * value.half:.{digits}f}"
    return f"{scale * value.mean:{sign}.{digits}f}{half}{unit}"


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def _comparisons(n: int) -> str:
    return "one comparison" if n == 1 else f"{n} comparisons"
