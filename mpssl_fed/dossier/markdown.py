"""A dossier's sections as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mpssl_fed.dossier.facts import Fact, Section
from mpssl_fed.report.table import Table, make_table, to_markdown

PICTURE = "The picture stands in dossier.html."


def document(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """Return the whole dossier."""
    lines = [f"# {title}", "", subtitle, ""]
    for section in sections:
        lines += [*section_lines(section), ""]
    return "\n".join(lines)


def section_lines(section: Section, level: int = 2) -> Iterator[str]:
    """Yield a section; level 0: without its heading."""
    if level:
        yield f"{'#' * level} {section.title}\n"
    if section.note:
        yield f"{section.note}\n"
    yield from table_lines(section.facts)
    for _, caption in section.pictures:
        yield f"\n{caption} {PICTURE}"
    for quote in section.quotes:
        yield f"\n_From {quote.source.words}:_\n"
        for block in quote.blocks:
            if isinstance(block, Table):
                yield _quoted(block)
            else:
                yield ("\n".join(f"- {point}" for point in block) if isinstance(block, tuple) else block) + "\n"


def table_lines(facts: Iterable[Fact]) -> Iterator[str]:
    """Yield facts as a table: what, value, source."""
    rows = [[fact.name, fact.value, fact.source.words if fact.source else fact.kind] for fact in facts]
    if rows:
        yield to_markdown(make_table(["what", "value", "source"], rows, ["what", "value", "source"]))


def _quoted(table: Table) -> str:
    """Return a table of the docs as it stands there: what is code stays code."""
    lines = [table.columns, ["---"] * len(table.columns), *([cell.text for _, cell in row.cells] for row in table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
