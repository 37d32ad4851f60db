"""The ServerApp of ``flwr run``, on the in-process Grid with the node and run config that Flower gives."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from clients.app import app as client_app
from mpssl_fed import simulate
from mpssl_fed.environment import SWITCHES
from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines import inprocess
from mpssl_fed.runs.reader import read_config, read_history
from server.app import app as server_app
from tests.patience import PATIENCE_S, wait_for

TINY = "method.name=base data.labels_per_class=2 data.test_limit=200 federation.rounds=2 federation.local_steps=1"
SUMS = f"{TINY} federation.aggregation=secure federation.secure.slots=1 federation.secure.min_sites=2"
TINY += " federation.evaluate_at_sites.times=1"


@pytest.fixture
def flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``flower(sites, config=..., overrides=...)`` runs both apps as a Flower simulation would."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def run(sites: int, **run_config: Any) -> None:
        nodes = [{"partition-id": site, "num-partitions": sites} for site in range(sites)]
        inprocess.run(server_app, client_app, nodes, run_config, run_id=77)  # type: ignore[arg-type]

    return run


def test_nodes_are_the_sites_and_a_line_says_how_many(
    flower: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flower(3, config="configs/demo.yaml", overrides=TINY)
    folder = tmp_path / "runs" / "flwr-77"
    assert read_config(folder).federation.sites == 3
    assert [record.answered for record in read_history(folder)] == [0, 3, 3]
    assert list((read_history(folder)[2].at_sites or {})["sites"]) == ["0", "1", "2"]
    assert (folder / "model.safetensors").is_file()
    assert sorted(path.name for path in (folder / "sites").iterdir()) == ["0", "1", "2"]
    assert not (tmp_path / "state" / "mpssl-fed" / "simulated" / "77").exists()
    said = capsys.readouterr().out
    assert "num-supernodes=N" in said
    page = (folder / "report.html").read_text()
    assert re.search(rf"accuracy 0\.\d{{4}}   {folder.relative_to(tmp_path)}/report\.html\n\Z", said)
    assert "After 2 of 2 rounds the model is right on" in page
    assert page.count('src="data:image/png') == 0  # base draws none


def test_flowers_server_app_sums_masked_updates(flower: Callable[..., None], tmp_path: Path) -> None:
    flower(3, config="configs/demo.yaml", overrides=SUMS)
    same = simulate("demo", *SUMS.split(), "federation.sites=3", f"output.dir={tmp_path / 'same'}")
    history = read_history(tmp_path / "runs" / "flwr-77")
    assert [(one.answered, one.train_loss, one.failed) for one in history] == [(0, None, False), *[(3, None, False)] * 2]
    assert _same(tmp_path / "runs" / "flwr-77", same.folder)


def _same(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same bits."""
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    return left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left)


def test_rounds_and_steps_by_the_names_of_flowers_templates(
    flower: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(word for word in TINY.split() if not word.startswith(("federation.rounds", "federation.local_steps")))
    flower(1, config="demo", overrides=words, **{"num-server-rounds": 1, "local-steps": 2})
    federation = read_config(tmp_path / "runs" / "flwr-77").federation
    assert (federation.rounds, federation.local_steps) == (1, 2)


def test_an_absolute_folder_may_be_asked_for(flower: Callable[..., None], tmp_path: Path) -> None:
    flower(1, config="configs/demo.yaml", overrides=f"{TINY} federation.rounds=1 output.dir={tmp_path / 'here'}")
    assert (tmp_path / "here" / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": "configs/nowhere.yaml"}, "no such file"),
        ({"config": "configs/demo.yaml", "overrides": "federation.rounds"}, "want key.path=value"),
        ({"config": "configs/demo.yaml", "overrides": 3}, "want a string"),
        ({"num-server-rounds": "three"}, "'num-server-rounds'='three': want a whole number"),
        ({"local-steps": -1}, "want a whole number"),
        ({"local-steps": True}, "want a whole number"),
        ({"num-server-rounds": 2, "overrides": "federation.rounds=3"}, "both set federation.rounds"),
    ],
)
def test_bad_run_config(flower: Callable[..., None], values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        flower(1, **values)


def test_the_bundle_holds_apps_and_configs_alone() -> None:
    """What pyproject tells Flower to ship, read by Flower's own reader of patterns."""
    import tomllib

    from flwr.cli.build import get_user_fab_patterns

    root = Path(__file__).parents[2]
    config = tomllib.loads((root / "pyproject.toml").read_text())
    include, exclude = get_user_fab_patterns(config)
    assert include == ["LICENSE", "clients/**/*.py", "server/**/*.py", "configs/**/*.yaml"]
    assert exclude is None


@pytest.mark.slow
def test_flwr_run_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ``flwr run`` against a SuperLink of our own, from the tracked files alone."""
    root, port = Path(__file__).parents[2], _free_port()
    app, home, work = tmp_path / "app", tmp_path / "home", tmp_path / "work"
    for folder in (app, home, work):
        folder.mkdir()
    for name in ("clients", "server", "configs"):
        shutil.copytree(root / name, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (root / name).is_file():
            shutil.copy(root / name, app / name)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "loop"\n\n[superlink.loop]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    scripts = Path(sys.executable).parent
    own = {"FLWR_HOME": str(home), "XDG_STATE_HOME": str(tmp_path / "state"), "PATH": f"{scripts}:{os.environ['PATH']}"}
    environment = os.environ | SWITCHES | own  # the SuperLink finds its helpers through PATH
    with open(tmp_path / "superlink.log", "w") as log:
        superlink = subprocess.Popen(
            [scripts / "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)],
            cwd=work,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for_port(port)
            rest = TINY.replace(" federation.rounds=2 federation.local_steps=1", "")
            as_readme = ["--run-config", f"num-server-rounds=2 local-steps=1 overrides='{rest}'"]
            nodes = "num-supernodes=2 client-resources-num-cpus=1 init-args-num-cpus=2"
            for given in (as_readme, ["-c", f"overrides='{SUMS} output.dir=runs/sums'"]):
                words = [scripts / "flwr", "run", app, "loop", "--stream", *given]
                command = [*words, "--federation-config", nodes]
                done = subprocess.run(
                    command, cwd=work, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
                )
        finally:
            superlink.terminate()
            superlink.wait(PATIENCE_S)
    folders = list((work / "runs").glob("flwr-*")) if (work / "runs").is_dir() else []
    assert len(folders) == 1, done.stdout + done.stderr + (tmp_path / "superlink.log").read_text()
    assert [record.answered for record in read_history(folders[0])] == [0, 2, 2]
    assert list((read_history(folders[0])[2].at_sites or {})["sites"]) == ["0", "1"]
    assert read_config(folders[0]).federation.local_steps == 1
    assert (folders[0] / "model.safetensors").is_file()
    assert (folders[0] / "report.html").is_file()
    monkeypatch.chdir(work)
    same = simulate("demo", *SUMS.split(), "federation.sites=2", f"output.dir={tmp_path / 'same'}")
    assert [record.answered for record in read_history(work / "runs" / "sums")] == [0, 2, 2]
    assert _same(work / "runs" / "sums", same.folder)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for_port(port: int) -> None:
    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens, f"somebody who listens on port {port}")
