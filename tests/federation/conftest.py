"""Tiny real runs: real digits, the real generator, the real apps; a few steps each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from clients.app import app
from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.federation.engines.simulation import preflight, simulate
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.rounds import Round
from mpssl_fed.runs.run_directory import RunDirectory, open_run

Handler = Callable[[Message, Context], Message]

TINY: dict[str, Any] = {
    "data": {"name": "mnist-5k", "labels_per_class": 2, "test_limit": 200},
    "method": {"name": "base"},
    "federation": {"sites": 3, "rounds": 2, "local_steps": 2},
}


def tiny_config(*overrides: str) -> Config:
    """Return the config of a run of about a second."""
    return configs.from_mapping(configs.override(TINY, overrides))


@pytest.fixture
def tiny() -> Callable[..., Config]:
    """``tiny("federation.rounds=3")`` -> Config."""
    return tiny_config


class Recorder(Progress):
    """Remembers what a run told."""

    def __init__(self) -> None:
        self.records: list[Round] = []

    def round(self, record: Round) -> None:
        self.records.append(record)


@pytest.fixture
def run_tiny(tmp_path: Path) -> Callable[..., RunDirectory]:
    """``run_tiny("method.name=mp-ssl", client=handler, folder=..., resume=True)`` -> the finished run."""

    def run(*overrides: str, client: Handler = app, folder: Path | None = None, **flags: bool) -> RunDirectory:
        directory = open_run(tiny_config(*overrides), folder or tmp_path / "run", **flags)
        preflight(directory.config)
        simulate(directory, lambda: client, Recorder())  # type: ignore[arg-type,return-value]
        return directory

    return run
