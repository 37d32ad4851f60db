"""Commands that read write nothing, whatever state the files are in: whole, cut, emptied, of other types, binary, gone, folders.

The whole tree is compared before and after, by names, sizes, times, modes and bytes; what a command is documented to write is named
with it. Each ends with status 0, or with 2 and one message, never in a traceback.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mpssl_fed.config import config_folder
from tests.cli.calls import Caller

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0_1"
"""A finished private run of two sites, with their ledgers."""

MINE = """\
method: {name: base}
data: {labels_per_class: 2, test_limit: 20}
federation: {sites: 2, rounds: 1, local_steps: 1}
"""

RUN, LEDGER = "run", "run/sites/0/ledger.sqlite"
PREDICT = ("predict", RUN, "photos", "--json")
EVALUATE = ("evaluate", RUN, "photos", "--json")
REPORT = ("report", RUN)
EXPORT = ("export", RUN, "--format", "torch-export", "--out", "there.pt2")  # refused: there is a file already
AUDIT = ("audit", RUN, "--site", "7")  # no such site: all that is read is read before anything is written
VERIFY, SHOW = ("ledger", "verify", RUN), ("ledger", "show", LEDGER, "--policy", "policy.yaml")
CHECK = ("policy", "check", "policy.yaml", "mine.yaml")
READERS: dict[str, tuple[tuple[str, ...], ...]] = {
    f"{RUN}/config.yaml": (AUDIT, REPORT),
    f"{RUN}/manifest.json": (AUDIT, REPORT),
    f"{RUN}/metrics.jsonl": (REPORT,),
    f"{RUN}/labels.json": (REPORT,),
    f"{RUN}/model.safetensors": (PREDICT, EVALUATE, EXPORT, AUDIT),
    LEDGER: (VERIFY, SHOW, ("ledger", "export", LEDGER)),
    f"{LEDGER}.key": (VERIFY, SHOW),
    f"{LEDGER}.head": (VERIFY, SHOW),
    f"{LEDGER}.lock": (VERIFY, SHOW),
    "policy.yaml": (SHOW, CHECK),
    "mine.yaml": (("data", "mine.yaml", "--sites"), ("privacy", "plan", "mine.yaml"), CHECK),
    "study.yaml": (("study", "study.yaml", "--dry-run"),),
    "photos/cross/00.png": (PREDICT, EVALUATE),
}
"""File -> the commands that read it; odder damage is tried with the first of them alone."""

ALWAYS = (("doctor",), ("site", "status", "--state", "run/sites/0"), ("data", "mine.yaml"))

WRITTEN = {
    REPORT: ("run", "run/report.html", "run/plots", "run/plots/"),
    ("data", "mine.yaml"): ("runs", "runs/data", "runs/data/"),
    ("data", "mine.yaml", "--sites"): ("runs", "runs/data", "runs/data/"),
}
"""Command -> what it is documented to write, with the folders that this is in."""


def _replaced(content: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        file.write_bytes(content)

    return damage


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _link(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _database(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE rows (seq TEXT, body INTEGER)")
        other.execute("INSERT INTO rows VALUES ('x', 1)")
        other.commit()


Damages = dict[str, Callable[[Path], object]]
USUAL: Damages = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3]),
    "empty": _replaced(b""),
    "binary": _replaced(bytes(range(256)) * 20),
    "other types": _replaced(b'{"run_id": [1], "round": {}, "data": 3, "scope": [], "grid": 1, "max_epsilon": {}}\n'),
    "gone": Path.unlink,
}
ODD: Damages = {
    "one byte short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "a list": _replaced(b"[1, null, {}]\n"),
    "a number": _replaced(b"7\n"),
    "deep": _replaced(b"[" * 5000),
    "another database": _database,
    "a folder": _folder,
    "a link to itself": _link,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished private run with its ledgers, a policy, a config, a study file and photos."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(FIXTURES / "run", folder / RUN)
    (folder / f"{LEDGER}.lock").touch()
    for name in ("cross", "disc"):
        (folder / "photos" / name).mkdir(parents=True)
        shutil.copy(FIXTURES / "images" / "test" / name / "00.png", folder / "photos" / name)
    shutil.copy(config_folder() / "policies" / "site.yaml", folder / "policy.yaml")
    (folder / "mine.yaml").write_text(MINE)
    (folder / "study.yaml").write_text("base: {federation: {sites: 2, rounds: 1}}\ngrid: {method.name: [base, mp-ssl]}\nseeds: 1\n")
    (folder / "there.pt2").write_bytes(b"of the user")
    (folder / "runs").mkdir()
    return folder


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fonts")


@pytest.fixture
def home(world: Path, fonts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty home of the user, who works in the folder of ``world``."""
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "FLWR_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", str(fonts))  # matplotlib lists fonts there, once a machine
    monkeypatch.chdir(world)
    return tmp_path


def _tree(*folders: Path) -> dict[str, tuple[object, ...]]:
    """Return name, from the first of ``folders`` on -> kind and mode, size, time of change and content of all below them."""
    found = {}
    for folder in folders:
        for path in (folder, *sorted(folder.rglob("*"))):
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[str(path.relative_to(folder) if folder is folders[0] else path)] = (
                oct(status.st_mode),
                size,
                status.st_mtime_ns,
                content,
            )
    return found


@pytest.mark.parametrize(
    "words", sorted({words for commands in READERS.values() for words in commands} | set(ALWAYS)), ids=" ".join
)
def test_of_whole_files(words: tuple[str, ...], world: Path, home: Path, call: Caller) -> None:
    assert not _wrong(words, world, home, call)


@pytest.mark.parametrize("file", READERS)
def test_of_a_damaged_file(file: str, world: Path, home: Path, call: Caller) -> None:
    place, wrong = world / file, []
    kept, mode = place.read_bytes(), place.stat().st_mode
    odd = {} if READERS[file][0] == REPORT else ODD  # it may well succeed, and takes seconds for its plots
    for name, damage in {**USUAL, **odd}.items():
        damage(place)
        try:
            for words in READERS[file] if name in USUAL else READERS[file][:1]:
                wrong += [f"{file} {name}: {said}" for said in _wrong(words, world, home, call)]
        finally:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            place.unlink(missing_ok=True)
            place.write_bytes(kept)
            place.chmod(mode)
    assert not wrong, "\n".join(wrong)


def _wrong(words: tuple[str, ...], world: Path, home: Path, call: Caller) -> list[str]:
    """Return what is wrong with how a command ends and with what it leaves."""
    may_end = (0, 1, 2) if words[0] in ("doctor", "policy") else (0, 2)  # 1: something is missing, or a site would refuse
    before = _tree(world, home)
    ended = call(*words)
    after, said = _tree(world, home), f"`{' '.join(words)}`"
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    stray = [
        name for name in changed if not any(name == to or (to[-1] == "/" and name.startswith(to)) for to in WRITTEN.get(words, ()))
    ]
    wrong = [f"{said} writes {stray}"] if stray else []
    if changed and ended.status != 0:
        wrong.append(f"{said} fails and has written {changed}")
    if ended.status not in may_end or "Traceback" in ended.err or (ended.status == 2 and not ended.err.strip()):
        wrong.append(f"{said} ends with {ended.status}: {ended.err[-1500:]}")
    return wrong
