"""doctor: what it prints is what is there, and its exit status says whether something needed is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpssl_fed import doctor
from mpssl_fed.environment import SWITCHES
from mpssl_fed.generators import load_generator
from tests.patience import PATIENCE_S


def _run(*words: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    command = [str(Path(sys.executable).with_name("mpssl-fed")), *words]
    return subprocess.run(command, cwd=folder, env=plain | env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_the_switches_survive_a_shell(tmp_path: Path) -> None:
    lines = _run("doctor", "--env", folder=tmp_path)
    assert lines.returncode == 0
    shown = subprocess.run(["sh", "-c", f"{lines.stdout}\nenv"], capture_output=True, text=True, check=True, env={})
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    assert {name: found.get(name) for name in SWITCHES} == SWITCHES


def test_findings_as_json(tmp_path: Path) -> None:
    done = _run("doctor", "--json", folder=tmp_path, FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="1")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert checks["FLWR_TELEMETRY_ENABLED"]["state"] == "ok"
    assert checks["FLWR_DISABLE_UPDATE_CHECK"]["detail"].startswith("not set in your shell")
    assert checks["RAY_USAGE_STATS_ENABLED"] == {
        "name": "RAY_USAGE_STATS_ENABLED",
        "state": "note",
        "detail": "1 in your shell, which is left as it is",
        "cure": "0 keeps runs offline",
    }
    assert load_generator("glyphs-digits").state_hash() in checks["glyphs-digits"]["detail"]
    assert checks["data mnist-5k"]["detail"] == "3000 + 2000 images, 10 classes"
    assert {"python", "torch", "flwr", "cpu", "fonts", "browser", "disk", "offline"} <= checks.keys()


def test_a_full_disk_and_a_lost_generator_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 62)
    monkeypatch.setattr("mpssl_fed.generators.small.embedded_folder", lambda name: tmp_path / name)
    missing = {check.name for check in doctor.examine() if check.state == "missing"}
    assert missing == {"disk", "glyphs-digits"}


def test_an_old_flower_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "1.30.0" if name == "flwr" else installed(name))
    flower = next(check for check in doctor._python() if check.name == "flwr")
    assert (flower.state, flower.detail) == ("missing", "1.30.0")
    assert flower.cure.startswith("pip install 'flwr")


def test_code_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGE", "mpssl-fed-of-nowhere")
    checks = {check.name: check for check in doctor._python()}
    assert (checks["mpssl-fed-of-nowhere"].state, checks["mpssl-fed-of-nowhere"].cure) == ("missing", "pip install -e .")
