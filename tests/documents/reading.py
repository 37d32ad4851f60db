"""README.md and docs/*.md as a reader sees them: their code blocks, in order, and the commands in these."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
SHELL = {"sh", "bash", "console", "shell"}
CONTENT = {"yaml", "toml", "json", "text"}


@dataclass(frozen=True)
class Step:
    """What stands in a page's code: kind command (one, without its comment), python or file (a block)."""

    page: str
    section: str
    line: int
    kind: str
    text: str

    @property
    def where(self) -> str:
        """``page:line``, for messages."""
        return f"{self.page}:{self.line}"


def steps(page: str, text: str | None = None) -> list[Step]:
    """Return what a page (its name below the root) asks its reader to do, in order, and the files that it shows.

    A fence names its language; ValueError where it is none of those known here. Each paragraph of an indented block is a file if it
    reads as YAML, TOML or JSON with keys, Python if it begins with an import, else commands.
    """
    found: list[Step] = []
    section, before = "", ""
    for token in MarkdownIt().parse(text if text is not None else (ROOT / page).read_text(encoding="utf-8")):
        if before == "heading_open":
            section = token.content
        before = token.type
        line = (token.map or [0])[0] + 1
        if token.type == "code_block":
            found += [step for at, part in _paragraphs(token.content) for step in _of(page, section, line + at, _kind(part), part)]
        elif token.type == "fence":
            found += _of(page, section, line + 1, _language(page, line, token.info.strip()), token.content)
    return found


def _of(page: str, section: str, line: int, kind: str, block: str) -> list[Step]:
    if kind != "command":
        return [Step(page, section, line, kind, block)]
    return [Step(page, section, line + at, "command", one) for at, one in commands(block)]


def _language(page: str, line: int, info: str) -> str:
    if info in SHELL:
        return "command"
    if info in CONTENT or info == "python":
        return "python" if info == "python" else "file"
    raise ValueError(f"{page}:{line}: a fence of '{info}'; say sh, python, or {', '.join(sorted(CONTENT))} for what is not run")


def _paragraphs(block: str) -> list[tuple[int, str]]:
    """Return (line in the block, text) of the parts of an indented block between blank lines."""
    lines = block.splitlines()
    starts = [at for at, one in enumerate(lines) if one.strip() and (at == 0 or not lines[at - 1].strip())]
    return [(at, "\n".join(lines[at:end])) for at, end in zip(starts, [*starts[1:], len(lines)], strict=True)]


def commands(block: str) -> list[tuple[int, str]]:
    """Return (line in the block, command) of a block of shell: comments left out, lines that a backslash continues joined."""
    found: list[tuple[int, str]] = []
    whole, begin = "", 0
    for at, line in enumerate(block.splitlines()):
        begin = begin if whole else at
        whole += line.strip()
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        bare = without_comment(whole)
        if bare:
            found.append((begin, bare))
        whole = ""
    return found


def without_comment(line: str) -> str:
    """Return a line of shell without the comment at its end."""
    for match in re.finditer(r"(^|\s)#", line):
        head = line[: match.start()]
        try:
            shlex.split(head)
        except ValueError:  # the sign stands in quotes
            continue
        return head.strip().removeprefix("$ ")
    return line.strip().removeprefix("$ ")


def inline(page: str) -> Iterator[str]:
    """Yield the code inside a page's sentences and tables."""
    parsed = MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
    yield from (part.content for token in parsed for part in token.children or () if part.type == "code_inline")


def program(command: str) -> str:
    """Return the name of what a command runs, without its folder."""
    return Path(shlex.split(command)[0]).name


def _kind(block: str) -> str:
    first = next((line.strip() for line in block.splitlines() if line.strip() and not line.strip().startswith("#")), "")
    if re.match(r"(from|import) \w", first):
        return "python"
    for read in (yaml.safe_load, tomllib.loads):
        try:
            value = read(block)
        except (yaml.YAMLError, tomllib.TOMLDecodeError):
            continue
        if isinstance(value, dict):
            return "file"
    return "command"
