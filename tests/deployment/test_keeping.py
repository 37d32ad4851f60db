"""What a rehearsal keeps of its sites is whole, whenever it is killed: a site's ledger is never lost, and never an older one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mpssl_fed.deployment.rehearsal import _finish_keeping, _keep
from tests.killed import every_kill


def _put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_killed_at_any_change_the_sites_are_those_before_or_those_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    run, home = tmp_path / "run", tmp_path / "home"
    before, after = {"0/ledger.sqlite": "1 round"}, {"0/ledger.sqlite": "2 rounds", "1/ledger.sqlite": "1 round"}
    notes = {"0/audit/notes.txt": "mine"}
    _put(home / "sites", after)

    def prepare() -> None:
        shutil.rmtree(run, ignore_errors=True)
        _put(run / "sites", before | notes)

    new = []
    for _ in every_kill(run, prepare, lambda: _keep(home / "sites", run / "sites")):
        moved = bool(list(run.glob(".sites.*.old")))
        _finish_keeping(run / "sites")
        found = {str(path.relative_to(run / "sites")): path.read_text() for path in (run / "sites").rglob("*") if path.is_file()}
        assert found in (before | notes, after | notes)
        assert not list(run.glob(".sites.*.old"))
        new.append(found == after | notes)
        assert new[-1] or not moved
    assert new == sorted(new)
    assert set(new) == {True, False}
