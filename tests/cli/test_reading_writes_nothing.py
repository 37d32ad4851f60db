"""Commands that only say something leave no file behind: not in the folder they run in, at home, or beside what they read."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import mpssl_fed
from mpssl_fed.cli import build
from mpssl_fed.config import config_folder
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import TINY

POLICY = str(config_folder() / "policies" / "site.yaml")
COMMANDS = [
    ("doctor",),
    ("privacy", "plan", "privacy/end-to-end"),
    ("policy", "check", POLICY, "privacy/end-to-end"),
    ("study", "demo", "--dry-run"),
    ("site", "status"),
    ("site", "wipe"),
    ("predict", "RUN", "PHOTOS", "--json"),
    ("evaluate", "RUN", "PHOTOS", "--json"),
    ("predict", "RUN", "LIST", "--csv"),
    ("evaluate", "RUN", "LIST", "--json"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished ``run``, two ``photos`` and a ``list.csv`` of them."""
    from torchvision.transforms.functional import to_pil_image

    folder = tmp_path_factory.mktemp("made")
    run: RunDirectory = mpssl_fed.simulate(TINY, "federation.rounds=1", f"output.dir={folder / 'run'}")
    images = parts.dataset(run.config).test
    for i in (0, 1):
        place = folder / "photos" / parts.dataset(run.config).classes[int(images.y[i])]
        place.mkdir(parents=True, exist_ok=True)
        to_pil_image(images.x[i]).save(place / f"{i}.png")
    lines = ["path,label", *(f"{path},{path.parent.name}" for path in sorted((folder / "photos").rglob("*.png")))]
    (folder / "list.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:3]))
def test_no_file_is_made_or_touched(words: tuple[str, ...], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "FLWR_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    places = {"RUN": str(made / "run"), "PHOTOS": str(made / "photos"), "LIST": str(made / "list.csv")}
    before = _files(made) | _files(tmp_path)
    done = CliRunner().invoke(build(), [places.get(word, word) for word in words])
    assert done.exit_code == 0 or "LIST" not in words
    assert done.exit_code == 0 or isinstance(done.exception, UserError | SystemExit), done.exception
    assert (_files(made) | _files(tmp_path)) == before


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}
