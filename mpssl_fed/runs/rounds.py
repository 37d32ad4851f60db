"""What is known of one round, in memory and as a line of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.files import parse_json, read_text
from mpssl_fed.runs import at_sites

COUNTS = ("round", "sites_asked", "sites_answered", "missing")
MEASURES = ("test_accuracy", "test_loss", "test_balanced_accuracy", "test_auroc", "train_loss", "generated")
RATES = ("test_accuracy", "test_balanced_accuracy", "test_auroc")
HELD_OUT = ("test", "validation")
MOST, SLACK = 10**12, 1e-9
"""Of a count; and how far a mean of rates may pass 0 or 1 by rounding."""


@dataclass(frozen=True)
class Round:
    """Round ``number``; 0 is the initial model, before any site was asked.

    accuracy, balanced accuracy, auroc (0..1) and loss (mean cross-entropy): of the global model after the round on the server's
    images, None where it was not evaluated; loss also where it is not finite, balanced and auroc where version 0.1 did not say;
    evaluated: which images those are, ``test`` or ``validation``, None where version 0.1 did not say; train_loss: what sites tell
    of their own, weighted by their sizes. rejected: replies left out, by code; generated: images that went through the sites'
    generators; timings: seconds by kind of work, those of sites added up; failed: the weights stayed as they were;
    at_sites: what the sites told of the model on images that they hold out (:mod:`mpssl_fed.runs.at_sites`), None where not asked.
    """

    number: int
    accuracy: float | None = None
    loss: float | None = None
    balanced: float | None = None
    auroc: float | None = None
    train_loss: float | None = None
    seconds: float = 0.0
    evaluated: str | None = None
    asked: int = 0
    answered: int = 0
    missing: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    generated: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False
    at_sites: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON types. ``test_accuracy`` and ``test_loss`` are of the images that ``evaluated`` names."""
        line: dict[str, Any] = {
            "round": self.number,
            "test_accuracy": self.accuracy,
            "test_loss": self.loss,
            "test_balanced_accuracy": self.balanced,
            "test_auroc": self.auroc,
            "train_loss": self.train_loss,
            "seconds": self.seconds,
            "evaluated": self.evaluated,
            "sites_asked": self.asked,
            "sites_answered": self.answered,
            "missing": self.missing,
            "rejected": dict(self.rejected),
            "generated": self.generated,
            "timings": dict(self.timings),
        }
        line |= {"failed": True} if self.failed else {}
        return line | ({} if self.at_sites is None else {"at_sites": dict(self.at_sites)})

    @staticmethod
    def from_json(entry: Any, where: str) -> Round:
        """Return the round of a line, of version 0.1 too; UserError, beginning with ``where``, for what is none."""
        wrong = _wrong(entry)
        if wrong:
            raise UserError(f"{where}: {wrong}; the file is damaged")
        return Round(
            number=entry["round"],
            accuracy=entry.get("test_accuracy"),
            loss=entry.get("test_loss"),
            balanced=entry.get("test_balanced_accuracy"),
            auroc=entry.get("test_auroc"),
            train_loss=entry.get("train_loss"),
            seconds=entry["seconds"],
            evaluated=entry.get("evaluated"),
            asked=entry["sites_asked"],
            answered=entry["sites_answered"],
            missing=entry["missing"],
            rejected=entry["rejected"],
            generated=entry.get("generated"),
            timings=entry["timings"],
            failed=bool(entry.get("failed", False)),
            at_sites=entry.get("at_sites"),
        )

    def flat(self) -> dict[str, Any]:
        """Return the line of metrics.csv: seconds by kind of work in columns of their own, what was left out in words."""
        row = {key: value for key, value in self.to_json().items() if not isinstance(value, dict)}
        row |= {f"{key}_s": value for key, value in self.timings.items()}
        return row | {"rejected": " ".join(f"{code}:{n}" for code, n in self.rejected.items())}

    def left_out(self) -> list[str]:
        """Return in words what of the sites' replies is not in the result."""
        return [f"{n} {code}" for code, n in self.rejected.items() if n]


History = Sequence[Round]
"""The rounds of a run in order; the first is the initial model."""


def read_rounds(file: Path) -> list[Round]:
    """Return the rounds of a metrics.jsonl; a last line cut by a kill is left out. UserError for a damaged one before."""
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    rounds = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_json(line)
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{file}, line {number}: not valid JSON: {error}") from error
            break
        rounds.append(Round.from_json(entry, f"{file}, line {number}"))
    return rounds


def _wrong(entry: Any) -> str | None:
    """Return what is wrong with a line, None where nothing is."""
    if not isinstance(entry, dict):
        return "want an object"
    wrong = next((key for key in COUNTS if type(entry.get(key)) is not int or not 0 <= entry[key] <= MOST), None)
    wrong = wrong or next((key for key in MEASURES if entry.get(key) is not None and not is_number(entry[key])), None)
    wrong = wrong or next((key for key in RATES if not -SLACK <= (entry.get(key) or 0) <= 1 + SLACK), None)
    wrong = wrong or next((key for key in ("timings", "rejected") if not _is_table(entry.get(key))), None)
    wrong = wrong or (None if is_number(entry.get("seconds")) else "seconds")
    wrong = wrong or ("at_sites" if entry.get("at_sites") is not None and at_sites.fault(entry["at_sites"]) else None)
    wrong = wrong or (None if entry.get("evaluated") in (None, *HELD_OUT) else "evaluated")
    return wrong and f"'{wrong}' is missing, of a wrong type or out of its range"


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number, as a float has room for."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(is_number(item) for item in value.values())
