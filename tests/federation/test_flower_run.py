"""The ServerApp of ``flwr run``, on the in-process Grid with the node and run config that Flower gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.app import app as client_app
from mpssl_fed.errors import UserError
from mpssl_fed.federation import inprocess
from mpssl_fed.federation.run_directory import read_config, read_history
from server.app import app as server_app

TINY = "method.name=base data.labels_per_class=2 data.test_limit=200 federation.rounds=2 federation.local_steps=1"


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
    assert [record["sites_answered"] for record in read_history(folder)] == [0, 3, 3]
    assert (folder / "model.safetensors").is_file()
    assert sorted(path.name for path in (folder / "sites").iterdir()) == ["0", "1", "2"]
    assert not (tmp_path / "state" / "mpssl-fed" / "simulated" / "77").exists()
    assert "num-supernodes=N" in capsys.readouterr().out


def test_an_absolute_folder_may_be_asked_for(flower: Callable[..., None], tmp_path: Path) -> None:
    flower(1, config="configs/demo.yaml", overrides=f"{TINY} federation.rounds=1 output.dir={tmp_path / 'here'}")
    assert (tmp_path / "here" / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": "configs/nowhere.yaml"}, "no such file"),
        ({"config": "configs/demo.yaml", "overrides": "federation.rounds"}, "want key.path=value"),
        ({"config": "configs/demo.yaml", "overrides": 3}, "want a string"),
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
    assert include == ["clients/**/*.py", "server/**/*.py", "configs/**/*.yaml"]
    assert exclude is None
