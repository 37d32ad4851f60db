"""The command line, called in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpssl_fed import simulate
from tests.cli.calls import Caller
from tests.study.runs import png

PHOTOS = [
    "data.name=image-folder", "data.labels_per_class=2", "data.partition.name=iid", "federation.sites=2", "method.name=base",
    "federation.rounds=1", "federation.local_steps=1",
]  # fmt: skip
"""Overrides of the demo for the folder ``photos``; with data.root the smallest run of own images."""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    """``call("data", "demo")`` -> how ``mpssl-fed data demo`` ended."""
    return Caller(monkeypatch, capsys)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image folder of two classes."""
    for part, count in (("train", 4), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(png(10 * number + index + (5 if part == "test" else 0)))
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest finished run of real digits."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny = ["method.name=base", "data.test_limit=20", "federation.sites=2", "federation.rounds=1", "federation.local_steps=1"]
    return simulate("demo", *tiny, output=folder).folder
