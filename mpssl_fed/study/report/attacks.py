"""How far membership attacks came on the runs of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.runs.reader import read_json, read_manifest
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.results import Row


def attack_success(outcome: Outcome, rows: Sequence[Row]) -> float | None:
    """Return the area under the curve of the membership attack of each run, or of the best one where its sites were audited with
    more, averaged over the arm; None without one."""
    found: list[float] = []
    for row in rows:
        audited = len(found)
        for file in sorted(outcome.folder(row).glob("sites/*/audit/audit.json")):
            attacks = _membership_attacks(file, outcome.folder(row))
            if attacks:
                found.append(max(attacks))
        if len(found) == audited and row.membership is not None:
            found.append(row.membership)
    return sum(found) / len(found) if found else None


def _membership_attacks(file: Path, run: Path) -> list[float]:
    """Return the areas of an audit's attacks; none where it was of a run that has since been overwritten."""
    audit = read_json(file)
    try:
        of = audit.get("facts", {}).get("run", "-")
        if of != "-" and of != read_manifest(run)["run_id"]:
            return []
        return [float(attack["auroc"]["value"]) for attack in audit["audits"].get("membership", {}).get("numbers", [])]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file}: damaged ({error!r}); remove it, or audit anew") from error
