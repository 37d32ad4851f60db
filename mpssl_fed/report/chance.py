"""Whether a run has learnt anything: its accuracy against guessing, and where it has not, why that may be and what to set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mpssl_fed.metrics import wilson
from mpssl_fed.runs.reader import RunReader, read_json

FEW_STEPS, FEW_LABELS, FAR_SKEWED = 500, 5, 0.3
"""Below these a run at chance is told to raise its steps per site or its labels per class, or that its sites are skewed (alpha)."""


@dataclass(frozen=True)
class Chance:
    """What always naming the largest class gets right, 0..1, and on how many images that was measured.

    images is None for runs that do not tell; level is then 1 / classes.
    """

    level: float
    images: int | None

    def interval(self, accuracy: float) -> tuple[float, float] | None:
        """Return the 95 % interval of an accuracy (Wilson 1927); None where the number of images is not known."""
        if self.images is None:
            return None
        return wilson(round(accuracy * self.images), self.images)

    def explains(self, accuracy: float) -> bool:
        """Whether ``accuracy`` is no better than guessing, or better by so little that it may be luck."""
        interval = self.interval(accuracy)
        return (accuracy if interval is None else interval[0]) <= self.level


def chance_of(run: RunReader) -> Chance | None:
    """Return the level of chance of a run: by the images it was evaluated on, else by the number of its classes, if known."""
    held_out = run.manifest.get("held_out")
    if held_out:
        return Chance(held_out["largest_class"] / held_out["images"], held_out["images"])
    task = run.config["data"].get("task") or {}
    classes = task.get("classes") or _classes(run)
    return Chance(1 / len(classes), run.config["data"].get("test_limit")) if classes else None


def at_chance(run: RunReader) -> bool:
    """Whether the last evaluation of a run is within noise of chance; False where nothing was evaluated."""
    accuracy, chance = run.accuracy, chance_of(run)
    return bool(accuracy) and chance is not None and chance.explains(accuracy[-1][1])


def warning(run: RunReader) -> list[str]:
    """Return what to print of a run that ends within noise of chance: a headline, then three causes; empty for any other."""
    if not at_chance(run):
        return []
    chance, final = chance_of(run), run.accuracy[-1][1]
    assert chance is not None
    head = f"This run ends within noise of chance: {100 * final:.1f} % right, where guessing gets {100 * chance.level:.1f} %."
    return [f"{head} Three likely causes, and what to set:", *(f"{n}. {cause}" for n, cause in enumerate(causes(run), 1))]


def causes(run: RunReader) -> list[str]:
    """Return the three likeliest causes of a run that learnt nothing, by its settings and losses, each with what to set."""
    found = [*_diverged(run), *_private(run), *_short(run), *_few_labels(run), *_left_out(run), *_skewed(run), *_synthetic(run)]
    return [*found, *_always(run, found)][:3]


def _diverged(run: RunReader) -> list[str]:
    lr, losses = run.config["optim"]["lr"], [value for _, value in run.train_loss]
    if len(losses) < 2 or (math.isfinite(losses[-1]) and losses[-1] <= 1.5 * losses[0]):
        return []
    return [f"Training diverges: its loss went from {losses[0]:.3g} to {losses[-1]:.3g}. Set optim.lr={lr / 10:g} (it is {lr:g})."]


def _private(run: RunReader) -> list[str]:
    privacy, model = run.config["privacy"], run.config["model"]
    if privacy["scope"] == "off":
        return []
    easier = []
    if run.config["warm_start"]["part"] == "none":
        easier.append("warm_start.part=both, which starts from what the public generator teaches (body, if it draws other classes)")
    if model["trainable"] != "head":
        easier.append("model.trainable=head, which trains the last layer alone")
    cure = f"Set {' and '.join(easier)}; or raise" if easier else "Raise"
    return [
        f"The noise of epsilon {privacy['epsilon']:g} drowns what the images say. {cure} privacy.epsilon, or collect more images "
        f"(privacy.public_size is {privacy['public_size']:,})."
    ]


def _short(run: RunReader) -> list[str]:
    federation = run.config["federation"]
    rounds, steps = federation["rounds"], federation["local_steps"]
    if rounds * steps >= FEW_STEPS:
        return []
    return [
        f"Too little training: {_count(rounds, 'round')} of {_count(steps, 'step')}. Set "
        f"federation.local_steps={_more(FEW_STEPS, rounds)}, or raise federation.rounds."
    ]


def _few_labels(run: RunReader) -> list[str]:
    labels = run.config["data"]["labels_per_class"]
    if labels is None or labels > FEW_LABELS:
        return []
    everything = "data.labels_per_class=null data.label_fraction=1"
    return [f"Too few labels: {labels} per class. Raise data.labels_per_class, or take all there are: {everything}."]


def _left_out(run: RunReader) -> list[str]:
    asked = sum(one.asked for one in run.rounds)
    answered = sum(one.answered for one in run.rounds)
    if answered == asked:
        return []
    return [
        f"{asked - answered} of {asked} replies are not in the result. 'Who answered' in the report says why; sites that are late "
        "need a larger federation.deadline_s."
    ]


def _skewed(run: RunReader) -> list[str]:
    split = run.config["data"]["partition"]
    if split["name"] != "pathological" and not (split["name"] == "dirichlet" and split["alpha"] <= FAR_SKEWED):
        return []
    return ["Each site holds few of the classes and unlearns the others. Set federation.anchor.weight=1 and warm_start.part=body."]


def _synthetic(run: RunReader) -> list[str]:
    if run.config["method"]["source"] == "none":
        return []
    return [
        f"The images of generator {run.config['generator']['name']} may not suit this task. Compare with method.name=base and "
        "method.augment=half-strong; 'Diagnosis' in the report says whether they reach your images."
    ]


def _always(run: RunReader, found: list[str]) -> list[str]:
    """Return what may be wrong in any run, as far as ``found`` does not say it."""
    lr, federation = run.config["optim"]["lr"], run.config["federation"]
    words = ["Images and labels may not belong together. `mpssl-fed data CONFIG` prints who holds what."]
    if not any("optim.lr" in cause for cause in found):
        words.append(f"The step size may not fit. Try optim.lr={lr / 10:g} and optim.lr={lr * 10:g} (it is {lr:g}).")
    if not any("federation.rounds" in cause for cause in found):
        words.append(f"Training may be too short. Raise federation.rounds (it is {federation['rounds']}).")
    return words


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _more(total: int, rounds: int) -> int:
    """Return the steps of a round that make ``total`` in all, rounded up to tens."""
    return 10 * math.ceil(total / rounds / 10)


def _classes(run: RunReader) -> list[Any]:
    file = run.path / "labels.json"
    found = read_json(file).get("classes") if file.is_file() else None
    return found if isinstance(found, list) else []
