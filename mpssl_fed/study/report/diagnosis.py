"""What a report shows of the diagnosis: of one run, of a study's arms, and where a study's gain vanishes with more labels."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from mpssl_fed.report.diagnosis_section import NOTE, percent
from mpssl_fed.report.signs import collapsed, varies_little
from mpssl_fed.report.table import NOTHING, make_table
from mpssl_fed.study.analysis import LABELS_KEY
from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of, label
from mpssl_fed.study.headline import NO_SHARES
from mpssl_fed.study.keys import short_names, show_value
from mpssl_fed.study.report.gate import gate_section

LABEL_KEYS = (LABELS_KEY, "data.label_fraction")


def study_diagnosis(outcome: Outcome, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return the sections of a study: means of the diagnosis by arm, and the label count at which each gain vanishes."""
    sections = []
    lines = [line for arm in arms if (line := _arm_line(arm)) is not None]
    if lines:
        columns = [
            "arm", "reach", "gap", "coverage", "precision", "cosine of views", "its spread", "of two images", "collapsed",
            "views too alike",
        ]  # fmt: skip
        table = make_table(columns, lines, ["arm"])
        sections.append(
            {"title": "Diagnosis", "verdict": _reach_verdict(arms), "note": f"Means over seeds. {NOTE}", "table": table}
        )
    sections += gate_section(outcome, arms)
    vanishing = vanishing_points(outcome, arms)
    if vanishing:
        note = (
            "Per arm, over the label counts of this study: the largest at which it beats the first baseline beyond noise, and "
            "what follows. The third sign of failure: beyond that point labels, not synthetic images, pay."
        )
        table = make_table(
            ["arm", "gain at each label count", "better up to", "the gain vanishes"], vanishing, ["arm", "the gain vanishes"]
        )
        sections.append({"title": "Labels and the gain", "note": note, "table": table})
    return sections


def vanishing_points(outcome: Outcome, arms: Sequence[Arm]) -> list[list[str]]:
    """Return (arm, gains, last label count with a gain, where it vanishes) of each arm compared at two or more label counts."""
    key = next((k for k in LABEL_KEYS if len({arm_of({k: arm.settings.get(k)}) for arm in arms}) > 1), None)
    if key is None:
        return []
    series: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.comparison is not None and arm.settings.get(key) is not None:
            series.setdefault(arm_of({k: v for k, v in arm.settings.items() if k != key}), []).append(arm)
    telling = outcome.plan.telling(arms[0].settings)
    unit = short_names([key])[key]
    lines = []
    for group in series.values():
        group.sort(key=lambda arm: arm.settings[key])
        if len(group) < 2:
            continue
        counts = [show_value(arm.settings[key]) for arm in group]
        better = [arm.comparison is not None and arm.comparison.verdict == "better" for arm in group]
        last = max((n for n, gain in enumerate(better) if gain), default=None)
        where = "no gain seen" if last is None else "not within this study"
        if last is not None and last + 1 < len(group):
            where = f"between {counts[last]} and {counts[last + 1]} {unit}"
        name = label({k: v for k, v in group[0].settings.items() if k != key and k in telling})
        gains = ", ".join(f"{count}: {_gain(arm, outcome.plan.study.metric)}" for count, arm in zip(counts, group, strict=True))
        lines.append([name, gains, "–" if last is None else counts[last], where])
    return lines


def _gain(arm: Arm, metric: str) -> str:
    assert arm.comparison is not None
    mean = arm.comparison.difference.mean
    return f"{mean:+.3f}" if metric in NO_SHARES else f"{100 * mean:+.1f}"


def _reach_verdict(arms: Sequence[Arm]) -> str:
    """Return in plain words how near the synthetic images of the arms come to the data."""
    known = {
        arm.label: fmean(shares) for arm in arms if (shares := [d["reach"] for row in arm.rows if "reach" in (d := row.diagnosed)])
    }
    if not known:
        return "How near synthetic images come to the data is not known: noise was not measured, or looked like the data."
    far = [name for name, share in known.items() if share <= 0]
    if len(far) == len(known):
        return "In no arm do the synthetic images reach the data: they come no nearer to it than noise."
    nearest = max(known, key=lambda name: known[name])
    way = f"{percent(known[nearest])} of the way from noise to other real images"
    said = f"Synthetic images come nearest to the data in {nearest}: {way}."
    return said + (f" No nearer than noise: {', '.join(far)}." if far else "")


def _arm_line(arm: Arm) -> list[str] | None:
    found = [row.diagnosed for row in arm.rows if row.diagnosis]
    if not found:
        return None
    means = [fmean(d[key] for d in found) for key in ("gap", "coverage", "precision", "pair", "pair_std", "others")]
    shares = [d["reach"] for d in found if "reach" in d]
    numbers = [percent(fmean(shares)) if shares else NOTHING]
    numbers += [f"{value:.{3 if n > 2 else 2}f}" for n, value in enumerate(means)]
    flags = [f"{sum(map(flag, found))} of {len(found)}" for flag in (collapsed, varies_little)]
    return [arm.label, *numbers, *flags]
