"""Paths of a config as the server's process needs them, which runs in another folder than whoever submits."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpssl_fed.config import from_mapping
from mpssl_fed.deployment.submit import with_absolute_paths

PATHS = {
    "data": {"root": "photos"},
    "generator": {"path": "mine/g.pt2", "foundation": "f.bin"},
    "model": {"name": "resnet18", "pretrained": "w.pth"},
    "output": {"dir": "run"},
}


def test_every_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = with_absolute_paths(from_mapping(PATHS))
    for section, fields in PATHS.items():
        for key, path in fields.items():
            if key != "name":
                assert getattr(getattr(found, section), key) == str(tmp_path / path)
    assert with_absolute_paths(found) == found
    monkeypatch.setenv("HOME", "/home/me")
    assert with_absolute_paths(from_mapping({"data": {"root": "~/photos"}})).data.root == "/home/me/photos"
    assert with_absolute_paths(from_mapping({})) == from_mapping({})
