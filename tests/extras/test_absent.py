"""Where an extra is not installed one sentence names it, whatever needs it; here its package is hidden, installed or not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.errors import UserError
from mpssl_fed.generators import load_generator
from mpssl_fed.models import Architecture, build_classifier

SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for switch in SWITCHES:
        monkeypatch.setenv(switch, "to be restored")
        monkeypatch.delenv(switch)
    for package in ("diffusers", "timm", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)


def test_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_generator("diffusers", tmp_path)
    wanted = "generator.name=diffusers needs the package diffusers, which is not installed here: pip install 'mpssl-fed[diffusers]'"
    assert str(error.value) == wanted
    assert [os.environ[switch] for switch in SWITCHES] == ["1", "1", "1"]


def test_a_network() -> None:
    with pytest.raises(UserError) as error:
        build_classifier(Architecture("timm/resnet18", ("a", "b"), 3, 32))
    wanted = "model.name=timm/resnet18 needs the package timm, which is not installed here: pip install 'mpssl-fed[timm]'"
    assert str(error.value) == wanted


def test_a_set(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_dataset("hf/owner/pets", tmp_path)
    wanted = "data.name=hf/owner/pets needs the package datasets, which is not installed here: pip install 'mpssl-fed[hf]'"
    assert str(error.value) == wanted


def test_a_switch_that_the_user_has_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(UserError, match="diffusers"):
        load_generator("diffusers", tmp_path)
    assert os.environ["HF_HUB_OFFLINE"] == "0"
