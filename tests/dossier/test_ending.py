"""A dossier of whatever lies there: half a run, an odd one, a damaged file, another's README, a deployment's own secrets."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.write import Written, write_dossier
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.runs.written import CARD, clear
from tests.dossier.pages import fixtures
from tests.report.test_deployed import PRIVATE
from tests.study.runs import write_run


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of version 0.1."""
    return fixtures(tmp_path_factory.mktemp("kept") / "old")


@pytest.fixture
def off(tmp_path: Path) -> Path:
    """A copy of a finished run without privacy."""
    return fixtures(tmp_path / "old") / "run-off"


def dossier(folder: Path, policy: Path | None = None, out: Path | None = None) -> Written:
    return write_dossier(Subject(folder, policy), out)


def test_a_run_without_privacy_says_so_first_of_all_about_the_odds(off: Path) -> None:
    written = dossier(off)
    assert "off: no privacy loss is bounded" in written.page.read_text().split("<nav>")[0]
    text = written.markdown.read_text()
    assert "off: no privacy loss is bounded" in text
    assert "no ledger.sqlite lies here" in text
    assert "no audit was run" in text
    assert "from 50 %" not in text


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("model.safetensors",), "model.safetensors is written when the last round is done"),
        (("model.safetensors", "metrics.jsonl"), "metrics.jsonl holds none yet"),
        (("manifest.json",), "no manifest.json lies here"),
        (("labels.json", "metrics.csv", "diagnosis.json"), "sites answered, all rounds"),
    ],
)
def test_a_run_in_progress_ends_well(off: Path, gone: tuple[str, ...], said: str) -> None:
    for name in gone:
        (off / name).unlink()
    written = dossier(off)
    assert said in written.markdown.read_text()
    assert (written.card is None) == ("model.safetensors" in gone)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _other(file: Path) -> None:
    file.write_text('{"audits": 3}')


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.yaml", _cut), ("manifest.json", _cut), ("manifest.json", _other), ("model.safetensors", _cut),
        ("sites/0/ledger.sqlite", _cut), ("sites/0/ledger.sqlite.head", _other), ("sites/0/audit/audit.json", _cut),
        ("sites/0/audit/audit.json", _other),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = fixtures(tmp_path / "old") / "run"
    damage(folder / name)
    with pytest.raises(UserError, match=Path(name).name.split(".")[0]):
        dossier(folder)
    assert not (folder / "dossier.html").exists()


def test_a_site_without_a_policy_and_one_that_released_nothing(kept: Path, tmp_path: Path) -> None:
    text = dossier(kept / "state" / "subject", out=tmp_path / "a").markdown.read_text()
    assert "name it by --policy" in text
    assert "per subject" in text
    (tmp_path / "new" / "rounds").mkdir(parents=True)
    text = dossier(tmp_path / "new", kept / "policy.yaml").markdown.read_text()
    assert "nothing was charged" in text
    assert "if the whole budget is spent" in text


def test_reads_outside_the_accounting_bound_nothing(tmp_path: Path) -> None:
    Ledger.create(tmp_path / "ledger.sqlite").mark_unaccounted("chest", "r", "scope off")
    page = dossier(tmp_path).page.read_text()
    assert "from 50 % to at most 100.0 %: nothing bounds it" in page.split("<nav>")[0]


@pytest.mark.parametrize(
    ("name", "said"), [("study", "a study; name one of its runs"), ("images", "neither a run directory"), ("none", "no such")]
)
def test_other_folders_are_refused(kept: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        dossier(kept / name)


def test_where_it_cannot_be_written_another_folder_is_asked_for(off: Path, tmp_path: Path) -> None:
    (off / "dossier.html").mkdir()
    with pytest.raises(UserError, match="out"):
        dossier(off)
    before = sorted(path for path in off.rglob("*"))
    written = dossier(off, out=tmp_path / "elsewhere" / "deep")
    assert written.card is not None
    assert {written.page.parent, written.card.parent} == {tmp_path / "elsewhere" / "deep"}
    assert sorted(path for path in off.rglob("*")) == before


def test_a_readme_of_the_users_own_stays_and_a_card_goes_with_its_run(off: Path) -> None:
    (off / CARD).write_text("mine")
    written = dossier(off)
    assert (off / CARD).read_text() == "mine"
    assert written.card is None
    assert "is your own and stays" in written.notes[0]
    assert CARD in clear(off)
    assert not (off / "dossier.html").exists()
    (off / CARD).unlink()


def test_a_card_is_replaced_and_cleared(off: Path) -> None:
    for _ in range(2):
        card = dossier(off).card
        assert card is not None
    text = card.read_text()
    assert text.startswith("---\nlicense: unknown\nlibrary_name: mpssl-fed\n")
    for field in (
        "## Model Details",
        "### Direct Use",
        "## Bias, Risks, and Limitations",
        "#### Training Hyperparameters",
        "## Evaluation",
    ):
        assert field in text
    assert json.loads((off / "metrics.jsonl").read_text().splitlines()[-1])["test_accuracy"] == float(
        text.split("type: accuracy\n      value: ")[1].split("\n")[0]
    )
    assert CARD not in clear(off)


def test_what_is_the_owners_alone_is_so_by_its_mode(kept: Path, off: Path, tmp_path: Path) -> None:
    own = dossier(kept / "state" / "image", kept / "policy.yaml", tmp_path / "own")
    assert {stat.S_IMODE(file.stat().st_mode) for file in (own.page, own.markdown)} == {0o600}
    assert stat.S_IMODE(own.page.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(dossier(off).page.stat().st_mode) & 0o077


def test_a_server_sees_nothing_that_a_site_did_not_release(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [0.1, 0.5], PRIVATE)
    counts = json.loads((folder / "labels.json").read_text())
    (folder / "labels.json").write_text(json.dumps(counts | {"classes": [f"secret-{n}" for n in range(10)]}))
    Ledger.create(folder / "sites" / "0" / "ledger.sqlite").mark_unaccounted("mnist-5k", "other", "a reason of the owner's")
    (folder / "sites" / "0" / "audit").mkdir()
    (folder / "sites" / "0" / "audit" / "audit.json").write_text('{"facts": {"images": 4711}, "audits": {}}')
    written = dossier(folder)
    for file in (written.page, written.markdown):
        for private in ("secret-", "a reason of the owner", "4711", "data:image"):
            assert private not in file.read_text()
    text = written.markdown.read_text()
    assert "it stands in the sites' own ledgers" in text
    assert "| refused with" in text or "| refused |" in text


def test_names_of_others_are_text_and_not_markup(off: Path) -> None:
    manifest = json.loads((off / "manifest.json").read_text())
    manifest["versions"]["<script>alert(1)</script>"] = "<b>`x`|</b>"
    (off / "manifest.json").write_text(json.dumps(manifest))
    page = dossier(off).page.read_text()
    assert "<script" not in page
    assert "<b>" not in page


def test_a_booked_gap_is_of_no_plan_and_leaves_no_curve(tmp_path: Path) -> None:
    folder = fixtures(tmp_path / "old") / "run"
    Ledger(folder / "sites" / "0" / "ledger.sqlite").book_gap({(2.354, 1.0): 1})
    text = dossier(folder).markdown.read_text()
    begins = [f"| site {site}, data set image-folder: after all that was released: an attacker" for site in (0, 1)]
    assert [begin in text for begin in begins] == [False, True]
