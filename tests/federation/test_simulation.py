"""The two engines end with the same bits; bad input is refused before a folder is made; Python's way in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mpssl_fed
from mpssl_fed.environment import SWITCHES
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import TINY
from tests.patience import PATIENCE_S
from tests.test_environment import DEAD_PROXIES

MP_SSL = "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 2, refresh_every: 1, buffer: 1}"
AT_SITES = "federation.evaluate_at_sites.times=1"


SUMS = "federation={aggregation: secure, sites: 3, rounds: 2, local_steps: 1, secure: {slots: 1}}"


def test_ray_and_inprocess_end_with_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed: make test")
    plain, sums = _in_ray(tmp_path, {"plain": [MP_SSL, AT_SITES], "sums": [SUMS]})
    runs = [mpssl_fed.simulate(TINY, MP_SSL, AT_SITES, f"output.dir={tmp_path / 'inprocess'}"), plain]
    one, other = (load_file(run.folder / "model.safetensors") for run in runs)
    assert all(one[key].equal(other[key]) for key in one)
    for site in ("0", "1", "2"):
        files = [(run.folder / "sites" / site).glob("*-000002.safetensors") for run in runs]
        mine, theirs = (load_file(next(file for file in some if "table" not in file.name)) for some in files)
        assert mine.keys() == {key for key in theirs if not key.startswith("update/")}  # in process a reply is trained again
        assert mine
        assert all(mine[key].equal(theirs[key]) for key in mine)
    assert [r.accuracy for r in runs[0].history] == [r.accuracy for r in runs[1].history]
    assert runs[0].history[2].at_sites == runs[1].history[2].at_sites is not None
    same = mpssl_fed.simulate(TINY, SUMS, f"output.dir={tmp_path / 'masked'}")
    one, other = (load_file(run.folder / "model.safetensors") for run in (same, sums))
    assert all(one[key].equal(other[key]) for key in one)
    assert [(r.answered, r.failed) for r in sums.history[1:]] == [(3, False)] * 2


def _in_ray(folder: Path, runs: dict[str, list[str]]) -> list[mpssl_fed.Run]:
    """Run the same on Ray, in a process of its own: Ray leaves processes to the end of the one that started it.

    In surroundings as hospitals have them: behind a proxy (that answers nothing), with temporary files in a deep folder.
    """
    deep = folder / ("long" * 25)
    deep.mkdir()
    surroundings = {**os.environ, **DEAD_PROXIES, "TMPDIR": str(deep)}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    patient = "federation.join_deadline_s=600"  # Ray's actors import torch first, which a busy machine draws out
    found = []
    for name, own in runs.items():
        words = ["simulate", str(folder / "tiny.yaml"), *own, patient, "--backend", "ray", "--output", str(folder / name)]
        program = [sys.executable, "-c", "from mpssl_fed.cli import main; main()", *words]
        done = subprocess.run(program, env=surroundings, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "round 2/" in done.stdout
        found.append(mpssl_fed.Run.open(folder / name))
    return found


def test_one_site_and_one_round_is_centralised_training(run_tiny: Callable[..., RunDirectory]) -> None:
    """The paper's setting: nothing of the federation is left in the numbers."""
    run = run_tiny(MP_SSL, "federation.sites=1", "federation.rounds=1", "federation.local_steps=5")
    config = run.config
    learner = build_site_learner(config, parts.simulated(config, 0), 0)
    learner.classifier.load_shared(parts.initial_classifier(config).shared_state())
    learner.train(1)
    trained = load_file(run.folder / "model.safetensors")
    assert all(torch.equal(value, trained[key]) for key, value in learner.classifier.shared_state().items())
    assert len(parts.labelled(config, 0)) == len(parts.dataset(config).classes) * 2


def test_python_way_in(tmp_path: Path) -> None:
    run = mpssl_fed.simulate(TINY, "federation.rounds=1", f"output.dir={tmp_path / 'run'}")
    assert [record.number for record in run.history] == [0, 1]
    assert run.accuracy == run.history[-1].accuracy
    assert run.config.federation.rounds == 1
    classifier = mpssl_fed.load(run.folder)
    x = torch.rand(3, 1, 32, 32)
    assert torch.equal(run.classifier()(x), classifier(x))
    assert mpssl_fed.Run.open(run.folder).accuracy == run.accuracy


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("federation.strategy.name=fedsgd", "unknown strategies 'fedsgd'"),
        ("data.name=mnist-6k", "mnist-6k"),
        ("federation.sites=400", "labelled images"),
        ("method={source: dreams, loss: scr}", "dreams"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mpssl_fed.simulate(TINY, override, f"output.dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_missing_ray_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(UserError, match=r"pip install 'mpssl-fed\[ray\]'"):
        mpssl_fed.simulate(TINY, "federation.backend=ray", f"output.dir={tmp_path / 'run'}")


def test_import_is_light_and_switches_come_before_flower() -> None:
    code = (
        "import sys, os, mpssl_fed\n"
        "assert not {'torch', 'flwr', 'ray', 'numpy'} & set(sys.modules), 'heavy import'\n"
        "import mpssl_fed.federation\n"
        "assert 'flwr' not in sys.modules\n"
        f"assert all(os.environ[name] == value for name, value in {SWITCHES!r}.items())\n"
    )
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
