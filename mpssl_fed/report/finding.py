"""The sentence that a run's report begins with: what was found, as far as its numbers carry."""

from __future__ import annotations

import math

from mpssl_fed.report.chance import Chance, chance_of
from mpssl_fed.runs.reader import RunReader

ONE_SEED = "This is one run with one seed: another seed gives another number. `mpssl-fed study` compares settings over seeds."


def run_finding(run: RunReader) -> str:
    """Return one sentence on how a run ended: its accuracy beside chance and beside the model before round 1."""
    accuracy = run.accuracy
    when = _when(run)
    if not accuracy:
        return f"{when} nothing is known of the model's accuracy, since the server evaluated on no images."
    final, chance = accuracy[-1][1], chance_of(run)
    held_out = run.held_out
    known = f"{chance.images:,} " if chance is not None and chance.images is not None else ""
    said = f"{when} the model is right on {_percent(final)} of {known}{held_out} images{_interval(chance, final)}"
    said += _against_chance(chance, final)
    said += _against_the_first(run, chance, accuracy[0][1], final) if accuracy[-1][0] > 0 and accuracy[0][0] == 0 else ""
    best = max(accuracy, key=lambda point: point[1])
    if _differ(chance, best[1], final):
        said += f"; it was best after round {best[0]}, with {_percent(best[1])}"
    return said + "."


def _when(run: RunReader) -> str:
    done, wanted = run.rounds[-1].number, run.config["federation"]["rounds"]
    if run.config["method"]["name"] == "generator-only":
        return "Taught by the public generator alone,"
    return f"After {done} of {wanted} {'round' if wanted == 1 else 'rounds'}" if done else "Before round 1"


def _interval(chance: Chance | None, accuracy: float) -> str:
    found = None if chance is None else chance.interval(accuracy)
    return "" if found is None else f" (95 % interval {100 * found[0]:.1f} to {100 * found[1]:.1f} %)"


def _against_chance(chance: Chance | None, final: float) -> str:
    if chance is None:
        return ""
    level = _percent(chance.level)
    if chance.images is None:
        return f", and chance is about {level}"
    if not chance.explains(final):
        return f", better than chance ({level})"
    interval = chance.interval(final)
    assert interval is not None
    if interval[1] < chance.level:
        return f", worse than chance ({level})"
    return f", which is within noise of chance ({level}): it has learnt nothing that these images can show"


def _against_the_first(run: RunReader, chance: Chance | None, first: float, final: float) -> str:
    warm = run.config["warm_start"]["part"] != "none"
    model = "the model that the public generator had warmed" if warm else "the untrained model"
    if not _differ(chance, first, final):
        return f"; {model} had {_percent(first)}, no different beyond noise"
    return f"; {model} had {_percent(first)}"


def _differ(chance: Chance | None, one: float, other: float) -> bool:
    """Whether two accuracies on the same images differ by more than two independent samples of that size would by chance.

    Accuracies on the same images vary together, so this errs towards calling a difference noise.
    """
    if chance is None or chance.images is None:
        return one != other
    mean = (one + other) / 2
    return abs(one - other) > 1.96 * math.sqrt(2 * mean * (1 - mean) / chance.images)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
