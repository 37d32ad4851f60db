"""What the public generator adds at each epsilon, each side at its best."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpssl_fed.report.table import NOTHING, Table, make_table
from mpssl_fed.study.analysis import paired
from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of
from mpssl_fed.study.report.points import configs_of, epsilon_of, epsilon_words
from mpssl_fed.study.statistics import compare


def against_table(outcome: Outcome, arms: Sequence[Arm]) -> Table:
    """Return what the public generator adds at each epsilon, each side at its best, and against the baseline's largest epsilon."""
    configs = configs_of(outcome)
    places: dict[tuple[str, float], list[Arm]] = {}
    for arm in arms:
        config = configs[arm_of(arm.settings)]
        if arm.mean is not None and config.privacy.scope == "end-to-end":
            places.setdefault((config.data.name, epsilon_of(config)), []).append(arm)
    contests: list[tuple[str, float, Arm, Arm]] = []
    for (data, epsilon), here in sorted(places.items(), key=lambda place: place[0]):
        seen = [arm for arm in here if configs[arm_of(arm.settings)].draws]
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
