"""``results.md``: what a study found, without its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpssl_fed.files import write_atomic
from mpssl_fed.report.table import Table, to_markdown
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.report.facts import warning
from mpssl_fed.study.report.sections import COMPARISON_NOTE, PRIMARY
from mpssl_fed.study.tuned import settings_words

COST_NOTE = (
    "A step is one optimiser step at one site. Times are wall clock of the machine that ran the cells, which share it, so "
    "compare them within this table alone. CPU time covers the whole cell, evaluation included. Peak memory is of the whole "
    "process, libraries included."
)


@dataclass(frozen=True)
class Told:
    """What the page and ``results.md`` both tell. pairs: the tables of arms against arms; private: those of a study of privacy."""

    title: str
    finding: str
    comparison: Table
    pairs: Sequence[dict[str, Any]]
    costs: Table
    private: Sequence[dict[str, Any]]

    @property
    def primary(self) -> list[dict[str, Any]]:
        """The section of the primary comparisons, where there are any."""
        return [section for section in self.pairs if section["title"] == PRIMARY]

    @property
    def others(self) -> list[dict[str, Any]]:
        """The other sections of comparisons."""
        return [section for section in self.pairs if section["title"] != PRIMARY]


def write_markdown(outcome: Outcome, told: Told) -> None:
    """Write ``results.md`` into the folder of the study."""
    parts = [f"# {told.title}", told.finding, outcome.plan.study.note or "", settings_words(outcome.plan), warning(outcome)]
    for section in told.primary:
        parts += [f"## {PRIMARY}", to_markdown(section["table"]), section["note"], "## All arms"]
    parts += [to_markdown(told.comparison), COMPARISON_NOTE]
    for section in told.others:
        parts += [f"## {section['title']}", to_markdown(section["table"])]
    parts += ["## Cost", to_markdown(told.costs), COST_NOTE]
    for section in told.private:
        parts += [f"## {section['title']}", section["note"], to_markdown(section["table"])]
    write_atomic(outcome.output / "results.md", "\n\n".join(part.strip() for part in parts if part) + "\n")
