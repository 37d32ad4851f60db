"""The command ``audit`` on a small run: one page and one JSON in a 0700 folder, and plain words for what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from clients.app import app
from mpssl_fed.audit import canary as audit_of_runs
from mpssl_fed.audit.audited import Audited
from mpssl_fed.audit.release_sections import canary
from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.simulation import preflight, simulate
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from tests.federation.conftest import tiny_config
from tests.generators.traps import write_trap
from tests.privacy.release_cases import fixed
from tests.study.test_studies_of_other_data import cells_folder

PRIVACY = "privacy={epsilon: 8, delta: 1.0e-4, public_size: 50, sample_rate: 1.0}"
MP_SSL = "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 2, refresh_every: 1, buffer: 1}"
QUICK = ("--canaries", "2000", "--trials", "20000", "--shadows", "2", "--iterations", "20")


@pytest.fixture(autouse=True)
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 canaries accuse an honest run by chance once in a thousand times; 20,000 would not, but take long."""
    monkeypatch.setattr(audit_of_runs, "noise_source", lambda name: fixed("canaries"))


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def made(folder: Path, *overrides: str) -> RunDirectory:
    directory = open_run(tiny_config(*overrides), folder)
    preflight(directory.config)
    simulate(directory, lambda: app, Progress())
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return made(tmp_path_factory.mktemp("audit") / "run", MP_SSL, PRIVACY)


def test_all_audits_of_a_private_run(run: RunDirectory) -> None:
    result = call("audit", run.folder, "--site", "1", *QUICK)
    assert result.exit_code == 0, result.output
    folder = run.sites / "1" / "audit"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    found = json.loads((folder / "audit.json").read_text())
    assert set(found["audits"]) == {"mechanism", "canary", "membership", "samples", "inversion"}
    for audit in ("mechanism", "canary"):
        for line in found["audits"][audit]["lines"]:
            assert line["lower_bound"] <= line["claimed"]
    assert [line["audit"] for line in found["audits"]["membership"]["lines"]] == [
        "membership by loss threshold",
        "membership by LiRA, 2 shadow models",
    ]
    page = (folder / "audit.html").read_text()
    assert "No test contradicts the claimed epsilon: all 7 prove less." in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    with Image.open(folder / "inversion-0.png") as image:
        assert image.width == 3 * 34 * 4
    assert "[5/5] inversion" in result.output
    assert "claimed epsilon" in page


def test_a_site_audits_its_own_images_into_its_own_folder(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpssl_fed.federation import parts
    from mpssl_fed.federation.parts import task_of

    data = parts.dataset(run.config)
    images = data.train.take(range(20))
    for i in range(len(images)):
        folder = tmp_path / "own" / data.classes[int(images.y[i])]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.x[i, 0].numpy()).save(folder / f"{i}.png")
    for name in data.classes:
        (tmp_path / "own" / name).mkdir(exist_ok=True)
    config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"task": task_of(data)})})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    words = ("audit", tmp_path / "config.yaml", "--data", tmp_path / "own", "--name", "ward-3", "--what", "mechanism", *QUICK)
    theirs = {"name": "exported", "path": str(write_trap(tmp_path / "trap.pt", tmp_path / "marker"))}  # a server's path
    trapped = config.model_copy(update={"generator": config.generator.model_copy(update=theirs)})
    (tmp_path / "trapped.yaml").write_text(trapped.to_yaml())
    result = call(*words)
    refused = call("audit", tmp_path / "trapped.yaml", *words[2 : -2 - len(QUICK)], "--what", "canary", *QUICK)
    assert "needs generator.path" in str(refused.exception)
    assert not (tmp_path / "marker").exists()
    assert result.exit_code == 0, result.output
    folder = tmp_path / "state" / "mpssl-fed" / "ward-3"
    assert folder.stat().st_mode & 0o777 == (folder / "audit").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (folder / "audit").iterdir()} == {0o600}


def test_a_contradicted_claim_is_an_error(run: RunDirectory) -> None:
    """Scope labelled-step: what LMO reads is beyond the epsilon printed, and the command says so."""
    config = tiny_config(MP_SSL, PRIVACY.replace("epsilon: 8", "epsilon: 8, scope: labelled-step"))
    section = canary(Audited(config, 0, canaries=2000))
    wrong = [line.audit.strip() for line in section.lines if line.contradicts]
    assert wrong == ["one run with canaries, scope labelled-step, all reads", "read 'meta' alone", "read 'feature' alone"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--what", "canery"), "Did you mean 'canary'"),
        (("--site", "9"), "sites 0 to 2"),
        (("--shadows", "3"), "even number"),
    ],
)
def test_what_cannot_be_done_is_said(run: RunDirectory, words: tuple[str, ...], message: str) -> None:
    error = call("audit", run.folder, *words).exception
    assert isinstance(error, UserError)
    assert message in str(error)


def test_a_run_that_protects_subjects_is_audited_to_its_end(tmp_path: Path) -> None:
    data = f"data={{name: image-folder, root: {cells_folder(tmp_path / 'cells')}, subjects: parent, size: 16, label_fraction: 1.0}}"
    private = "privacy={epsilon: 8, unit: subject, delta: 1.0e-3, public_size: 5, sample_rate: 0.5}"
    folder = made(tmp_path / "run", data, private, "model.name=pixels", "federation.rounds=1", "federation.sites=2").folder
    result = call("audit", folder, "--what", "inversion", *QUICK)
    assert result.exit_code == 0, result.exception
    found = json.loads((folder / "sites" / "0" / "audit" / "audit.json").read_text())
    assert found["facts"]["claimed epsilon"].endswith(" at delta 0.001 per subject")
    assert float(found["facts"]["claimed epsilon"].split()[0]) <= 8
    assert len(found["audits"]["inversion"]["lines"]) == 2


def test_a_run_without_privacy_is_told_so(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", "federation.rounds=1").folder
    assert call("audit", folder, "--what", "inversion", *QUICK).exit_code == 0
    facts = json.loads((folder / "sites" / "0" / "audit" / "audit.json").read_text())["facts"]
    assert facts["claimed epsilon"].startswith("none: scope off protects no image")
