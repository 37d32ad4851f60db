"""Which numbers trackers get, the key that version 0.1 had, and one sentence where a tracker is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed import config as configs
from mpssl_fed.errors import UserError
from mpssl_fed.runs.rounds import Round
from mpssl_fed.runs.tracking import OF_SITES, TRACKERS, public_numbers
from tests.federation.conftest import tiny_config
from tests.federation.test_privacy import private_config

TOLD = Round(3, accuracy=0.5, train_loss=0.25, seconds=2.0, asked=3, answered=2, timings={"train": 1.0, "evaluate": 0.5})


def test_simulated_sites_release_nothing_under_privacy_and_deployed_ones_what_their_policy_lists() -> None:
    assert public_numbers(TOLD, tiny_config())["train_loss"] == 0.25
    private = public_numbers(TOLD, private_config())
    assert private == {"test_accuracy": 0.5, "seconds": 2.0, "sites_answered": 2.0, "seconds/evaluate": 0.5}
    assert not set(OF_SITES) & set(private)
    assert public_numbers(TOLD, private_config("federation.backend=deployment"))["train_loss"] == 0.25


@pytest.mark.parametrize(
    ("output", "track"),
    [
        ({}, ()),
        ({"tensorboard": False}, ()),
        ({"tensorboard": True}, ("tensorboard",)),
        ({"tensorboard": True, "track": ["tensorboard"]}, ("tensorboard",)),
        ({"tensorboard": True, "track": "mlflow"}, ("mlflow", "tensorboard")),
        ({"track": ["mlflow", "mlflow"]}, ("mlflow",)),
        ({"track": ["tensorboard", "mlflow"]}, ("tensorboard", "mlflow")),
    ],
)
def test_the_older_key_still_counts(output: dict[str, Any], track: tuple[str, ...]) -> None:
    config = configs.from_mapping({"output": output})
    assert config.output.track == track
    assert "tensorboard" not in config.dump()["output"]


@pytest.mark.parametrize("wrong", [{"tensorboard": "yes"}, {"track": ["wandb"]}, {"track": 5}, {"track": [True]}])
def test_what_is_no_tracker_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"output\.(track|tensorboard)|output: "):
        configs.from_mapping({"output": wrong})


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_extra_is_named_and_nothing_is_written(
    name: str, cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else found(wanted, *rest))
    status, _, error = cli("simulate", "demo", f"output.track={name}", "--output", tmp_path / "run")
    assert status == 2
    assert f"pip install 'mpssl-fed[{name}]'" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
