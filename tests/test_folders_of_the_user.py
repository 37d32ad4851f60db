"""Where caches and the state of sites lie: as the XDG specification has it, and nowhere where no home folder is known."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpssl_fed import environment
from mpssl_fed.errors import UserError
from tests.patience import PATIENCE_S

FOLDERS = (
    (environment.cache_folder, "XDG_CACHE_HOME", ".cache/mpssl-fed"),
    (environment.state_folder, "XDG_STATE_HOME", ".local/state/mpssl-fed"),
)
ABSENT = "this user has no home folder"


@pytest.mark.parametrize(("folder", "variable", "below"), FOLDERS)
@pytest.mark.parametrize("given", [None, "", "relative", "./here", "~/there"])
def test_below_home_where_the_variable_is_absent_or_no_absolute_path(
    folder: Callable[[], Path], variable: str, below: str, given: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    if given is not None:
        monkeypatch.setenv(variable, given)
    assert folder() == tmp_path / below
    assert not list(tmp_path.iterdir())  # asking makes nothing


@pytest.mark.parametrize(("folder", "variable", "below"), FOLDERS)
def test_the_variable_wins_and_needs_no_home(
    folder: Callable[[], Path], variable: str, below: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "of mine"))
    for home in (str(tmp_path), environment.NOWHERE):
        monkeypatch.setenv("HOME", home)
        assert folder() == tmp_path / "of mine" / "mpssl-fed"


@pytest.mark.parametrize(("folder", "variable", "below"), FOLDERS)
@pytest.mark.parametrize("given", ["", "relative"])
def test_no_home_is_an_error_that_names_the_variable(
    folder: Callable[[], Path], variable: str, below: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", environment.NOWHERE)
    monkeypatch.setenv(variable, given)
    with pytest.raises(UserError, match=rf"{ABSENT}.*set HOME or {variable}"):
        folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take a user id that passwd does not know")
def test_a_user_id_that_passwd_does_not_know() -> None:
    program = """
import os
from mpssl_fed import environment, errors
os.setuid(987654)
for folder in (environment.cache_folder, environment.state_folder):
    try:
        print(folder())
    except errors.UserError as error:
        print(error)
"""
    bare = {key: value for key, value in os.environ.items() if key != "HOME" and not key.startswith("XDG_")}
    command = [sys.executable, "-c", program]
    for given, said in (({}, ABSENT), ({"XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "/s"}, "/mpssl-fed")):
        done = subprocess.run(
            command,
            env=bare | given,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert [said in line for line in done.stdout.splitlines()] == [True, True]
