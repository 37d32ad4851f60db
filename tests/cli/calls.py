"""Calling the command line in this process, to its exit status."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from mpssl_fed.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


class Caller:
    """``call("simulate", "demo")`` runs ``mpssl-fed simulate demo``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> Ended:
        """Run the command."""
        self.monkeypatch.setattr(sys, "argv", ["mpssl-fed", *(str(word) for word in words)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    def refused(self, *words: object) -> str:
        """Run the command, which must end with status 2, one message and no traceback, and return the message."""
        ended = self(*words)
        assert "Traceback" not in ended.err, ended.err
        assert ended.status == 2, (words, ended)
        assert ended.err.strip(), words
        return ended.err
