"""Whose dossier it is: a run directory or a deployed site's state folder, and the files there that may be shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mpssl_fed.config import read_mapping
from mpssl_fed.dossier.facts import Fact, Source
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown
from mpssl_fed.privacy.ledger import SIMULATED, Ledger
from mpssl_fed.privacy.ledger_rows import Tally
from mpssl_fed.privacy.policy import Policy, load_policy
from mpssl_fed.report.spent import told_of
from mpssl_fed.runs.reader import CLEARING, CONFIG, MANIFEST, STUDY, RunReader, read_history, read_json
from mpssl_fed.runs.rounds import Round

DEFAULT = "not set there: the default"
LEDGER, AUDIT = "ledger.sqlite", "audit/audit.json"
OF_A_SITE = (LEDGER, "rounds", "site-report.html", AUDIT)
"""By one of these a state folder is known."""


@dataclass(frozen=True)
class Subject:
    """A folder. policy: the file of a site's policy; head: of its ledger's head, where that is elsewhere.

    Of a deployment's run nothing below sites/ is read, even where a rehearsal on one machine keeps it there: it is the owners'.
    """

    path: Path
    policy_file: Path | None = None
    head: Path | None = None
    _told: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def is_run(self) -> bool:
        """Whether it is a run; UserError where it is neither run nor site."""
        path = self.path
        if not path.is_dir():
            raise UserError(f"{shown(path)}: no such folder; name a run directory or a site's state folder")
        if (path / STUDY).is_file():
            cells = sorted(path.glob("cells/*/manifest.json"))
            raise UserError(f"{shown(path)}: a study; name one of its runs" + (f", for example {cells[0].parent}" if cells else ""))
        if (path / MANIFEST).is_file() or (path / CONFIG).is_file():
            return True
        if any((path / name).exists() for name in OF_A_SITE):
            return False
        raise UserError(f"{shown(path)}: neither a run directory (no {MANIFEST}) nor a site's state folder (no {LEDGER})")

    @cached_property
    def run(self) -> RunReader:
        """The run's files."""
        return RunReader(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's resolved config; empty of a site."""
        return self.run.config if self.is_run else {}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The run's manifest; empty of a site. UserError for a run that is half deleted."""
        found = self.run.manifest if self.is_run else {}
        if found.get("status") == CLEARING:
            raise UserError(f"{self.path}: a process was ended while it deleted this run; nothing there can be trusted")
        return found

    @cached_property
    def rounds(self) -> list[Round]:
        """The rounds so far; none of a site."""
        return read_history(self.path) if self.is_run else []

    @property
    def deployed(self) -> bool:
        """Whether it is the server's side of a deployment."""
        return self.is_run and self.config["federation"].get("backend") == "deployment"

    @property
    def private(self) -> bool:
        """Whether what is shown is the owner's alone."""
        return not self.is_run or bool(self.ledgers or self.audits)

    @cached_property
    def policy(self) -> Policy | None:
        """The site's policy, where it was named."""
        return load_policy(self.policy_file) if self.policy_file else None

    @cached_property
    def sites(self) -> list[tuple[str, Path]]:
        """(name, folder) of every site whose files may be shown; a state folder is its own, without a name."""
        if not self.is_run:
            return [("", self.path)]
        return [] if self.deployed else [(site.name, site) for site in self.run.sites]

    @property
    def ledgers(self) -> list[tuple[str, Path]]:
        """(site, ledger) of those that keep one."""
        return [(name, folder / LEDGER) for name, folder in self.sites if (folder / LEDGER).exists()]

    @property
    def audits(self) -> list[tuple[str, Path]]:
        """(site, audit.json) of those that were audited."""
        return [(name, folder / AUDIT) for name, folder in self.sites if (folder / AUDIT).exists()]

    def audit(self, file: Path) -> dict[str, Any]:
        """Return an audit; UserError where the file is damaged."""
        found = read_json(file)
        parts = found.get("audits")
        if (
            not isinstance(found.get("facts"), dict)
            or not isinstance(parts, dict)
            or not all(_is_audit(one) for one in parts.values())
        ):
            raise UserError(f"{file}: damaged, 'facts' or the lines of 'audits' are missing; write it anew by `mpssl-fed audit`")
        return found

    def told(self, file: Path) -> dict[str, Any]:
        """Return what ``ledger show --json`` prints of a ledger; a LedgerError, which names it, where it cannot be trusted."""
        if str(file) not in self._told:
            rows, tally = Ledger(file, self.head).rows(), Tally()
            for row in rows:
                tally.add(row)
            note = rows[0].body.get("note")
            sets = [told_of(tally.of(name), self.policy, None, note == SIMULATED) for name in tally.datasets]
            self._told[str(file)] = {"note": note, "rows": len(rows), "data_sets": sets}
        return self._told[str(file)]

    def marked(self, facts: Iterable[Fact]) -> tuple[Fact, ...]:
        """Return the facts; the source of one whose key config or policy leave out says that its value is the default."""
        return tuple(replace(fact, source=self._marked(fact.source)) if fact.source else fact for fact in facts)

    def _marked(self, source: Source) -> Source:
        given = self._given.get(source.file)
        for part in source.key.split(".") if given is not None else ():
            if isinstance(given, dict) and part not in given:
                return replace(source, how=DEFAULT)
            given = given.get(part) if isinstance(given, dict) else None
        return source

    @cached_property
    def _given(self) -> dict[str, Any]:
        """Config and policy as their files spell them."""
        files = {CONFIG: self.path / CONFIG} if self.is_run else {}
        files |= {self.name(self.policy_file): self.policy_file} if self.policy_file else {}
        return {name: read_mapping(file) for name, file in files.items()}

    def name(self, file: Path) -> str:
        """Return a file as the dossier names it: below the folder, else as it was given."""
        return shown(file.relative_to(self.path) if file.is_relative_to(self.path) else file)


def _is_audit(one: Any) -> bool:
    lines = one.get("lines") if isinstance(one, dict) else None
    return isinstance(lines, list) and all(isinstance(line, dict) and isinstance(line.get("audit"), str) for line in lines)
