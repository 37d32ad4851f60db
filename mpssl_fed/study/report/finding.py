"""The sentences that a study's report begins with: what its primary comparisons say, which arm is best, what else differs."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.report.chance import at_chance
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study.analysis import Analysis
from mpssl_fed.study.arms import Arm, Asked, best_arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.headline import NO_SHARES, unit_of
from mpssl_fed.study.schema import Study
from mpssl_fed.study.statistics import FEWEST, Comparison, Estimate

METRIC = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "best": "best-round accuracy",
    "macro_f1": "macro F1", "average_precision": "average precision", "brier": "Brier score",
    "ece": "expected calibration error", "loss": "loss",
}  # fmt: skip
MOST_NAMED = 3
"""Primary comparisons that are told one by one."""


def study_finding(outcome: Outcome, found: Analysis) -> str:
    """Return what the study found: its primary comparisons first, then the best arm and what else differs, as exploratory; last
    where even the best arm has learnt nothing."""
    study = outcome.plan.study
    best = best_arm(found.arms, study)
    if best is None:
        return "No cell has finished yet, so there is nothing to compare."
    primary = _primary(found.primary, study.metric)
    if not found.exploratory:
        said = _best(best, study.metric) + "." if primary else _untested(found.arms, best, study)
    elif not any(comparison.differs for _, _, comparison in found.exploratory):
        said = _noise(best, found.exploratory, study.metric, bool(primary))
    else:
        said = _differs(best, found.exploratory, study.metric)
    return f"{primary} {said}".strip() + _chance(outcome, best)


def _primary(asked: Sequence[Asked], metric: str) -> str:
    """Return what the primary comparisons say; "" in a study without them."""
    done = [(one, one.comparison) for one in asked if one.comparison is not None]
    if not asked:
        return ""
    if not done:
        return f"No pair of seeds of {_comparisons(len(asked), 'primary')} has finished."
    clear = [(one, comparison) for one, comparison in done if comparison.differs]
    told = clear or [max(done, key=lambda pair: abs(pair[1].difference.mean))]
    words = "; ".join(
        f"{one.arm.label} against {one.against.label} {_difference(comparison, metric)}, {_verdict(comparison)}"
        for one, comparison in told[:MOST_NAMED]
    )
    more = f"; and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
    head = "The primary comparison" if len(asked) == 1 else f"Of {len(asked)} primary comparisons {_count(len(clear))} beyond noise"
    if len(asked) > 1 and not clear:
        head += ", the largest difference"
    left = f" {_comparisons(len(asked) - len(done), 'primary')} not finished." if len(done) < len(asked) else ""
    return f"{head}: {words}{more}.{left}"


def _count(n: int) -> str:
    return {0: "none differs", 1: "one differs"}.get(n, f"{n} differ")


def _best(best: Arm, metric: str) -> str:
    assert best.mean is not None
    return f"{best.label} has the best mean {METRIC[metric]}, {_value(best.mean, metric)} over {_seeds(best.mean.n)}"


def _untested(arms: Sequence[Arm], best: Arm, study: Study) -> str:
    assert best.mean is not None
    metric = study.metric
    others = [arm for arm in arms if arm is not best and arm.mean is not None]
    if not others:
        of_best = f"{_value(best.mean, metric)} over {_seeds(best.mean.n)}"
        return f"{best.label} has a mean {METRIC[metric]} of {of_best}; no other arm has finished."
    second = best_arm(others, study)
    assert second is not None
    assert second.mean is not None
    return (
        f"{_best(best, metric)}, before {second.label} with {_value(second.mean, metric)}; nothing was tested, since no baseline "
        "is named or none has finished, so their order may be noise."
    )


def _noise(best: Arm, compared: Sequence[tuple[str, str, Comparison]], metric: str, primary: bool) -> str:
    label, other, largest = max(compared, key=lambda one: abs(one[2].difference.mean))
    seeds = max(comparison.difference.n for _, _, comparison in compared)
    if seeds < FEWEST:
        why = f"{_seeds(seeds)} cannot tell a difference from noise; it takes {FEWEST} or more"
    else:
        why = f"none of {_comparisons(len(compared), 'exploratory')} over {_seeds(seeds)} has a q-value below 0.05"
    most = f"The largest difference is that of {label} from {other}, {_difference(largest, metric)}."
    head = f"{_best(best, metric)}. Nothing else differs" if primary else "Nothing differs"
    return f"{head} beyond noise: {why}. {most}"


def _differs(best: Arm, compared: Sequence[tuple[str, str, Comparison]], metric: str) -> str:
    said = _best(best, metric)
    if best.versus and best.versus[0].itself:
        said += ", and is a baseline"
    elif best.comparison is not None:
        base = "its baseline" if len(best.versus) == 1 else best.versus[0].against
        kind = "a primary comparison" if best.comparison.primary else "exploratory"
        said += f": {_difference(best.comparison, metric)} against {base}, {_verdict(best.comparison)} ({kind})"
    else:
        said += ", with no baseline to compare it with"
    counts = {verdict: sum(c.verdict == verdict for _, _, c in compared) for verdict in ("better", "worse")}
    of = _comparisons(len(compared), "exploratory")
    said += f"; of {of}, {counts['better']} came out better and {counts['worse']} worse beyond noise"
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
    unit = "" if metric in NO_SHARES else " points"
    name, value = ("corrected p" if comparison.primary else "q"), comparison.corrected
    p = "" if value is None else f", {name} {'< 0.001' if value < 0.001 else f'{value:.3f}'}"
    interval = "" if comparison.difference.half is None else "95 % interval, "
    return f"{_value(comparison.difference, metric, '+', '')}{unit} ({interval}{_seeds(comparison.difference.n)}{p})"


def _verdict(comparison: Comparison) -> str:
    return f"{comparison.verdict} beyond noise" if comparison.differs else "which is within noise"


def _value(value: Estimate, metric: str, sign: str = "", unit: str = " %") -> str:
    (scale, digits), unit = unit_of(metric), "" if metric in NO_SHARES else unit
    half = "" if value.half is None else f" ± {scale * value.half:.{digits}f}"
    return f"{scale * value.mean:{sign}.{digits}f}{half}{unit}"


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def _comparisons(n: int, kind: str) -> str:
    return f"one {kind} comparison" if n == 1 else f"{n} {kind} comparisons"
