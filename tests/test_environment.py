"""Surroundings that a user's machine brings along: proxies, and a temporary folder with a long path."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from mpssl_fed import environment, files
from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.simulation import LONGEST_FOR_RAY, short_folder_for_ray
from mpssl_fed.files import short_folder

NOWHERE = "127.0.0.1:9"
DEAD_PROXIES = {
    "http_proxy": f"http://{NOWHERE}", "https_proxy": f"http://{NOWHERE}", "HTTPS_PROXY": f"http://{NOWHERE}",
    "ALL_PROXY": f"socks4://{NOWHERE}", "grpc_proxy": f"http://{NOWHERE}",
}  # fmt: skip
"""Of every kind that clients know; Flower's stops at the very name of the fourth."""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


def test_without_proxies_nothing_is_set(bare: pytest.MonkeyPatch) -> None:
    assert environment.past_proxies() == {}
    switches = {*environment.SWITCHES, *environment.FLOWERS_POLL}
    assert set(environment.of_flower(Path("/x"), "127.0.0.1:8000")) == {*switches, "FLWR_HOME", "PATH"}
    assert "no_proxy" not in environment.export_lines()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "intranet, 127.0.0.1"}, "intranet,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": ".example.org"}, ".example.org,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_loopback_is_added_to_what_the_user_excepts(bare: pytest.MonkeyPatch, given: dict[str, str], expected: str) -> None:
    for name, value in (given | {"HTTPS_PROXY": f"http://{NOWHERE}"}).items():
        bare.setenv(name, value)
    assert environment.past_proxies() == {"no_proxy": expected, "NO_PROXY": expected}
    beyond = environment.of_flower(Path("/x"), "fed.example.org:9092")
    assert (beyond["no_proxy"], beyond["NO_PROXY"]) == (expected, expected)
    assert "HTTPS_PROXY" not in beyond  # the way to another machine may lead through it
    words = shlex.split(environment.export_lines())
    assert f"no_proxy={expected}" in words


def test_a_proxy_that_flowers_client_does_not_know_is_kept_from_it(bare: pytest.MonkeyPatch) -> None:
    """Of those that it knows it may need one to another machine."""
    for name, value in DEAD_PROXIES.items():
        bare.setenv(name, value)
    for name, value in environment.of_flower(Path("/x"), "fed.example.org:9092").items():
        bare.setenv(name, value)
    assert os.environ["ALL_PROXY"] == ""
    with httpx.Client() as client:
        assert client._transport_for_url(httpx.URL("https://127.0.0.1:9094/x")) is client._transport
        assert client._transport_for_url(httpx.URL("https://fed.example.org/x")) is not client._transport


@pytest.mark.parametrize("server", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_flowers_client_reaches_loopback_past_every_proxy(bare: pytest.MonkeyPatch, server: str) -> None:
    """httpx, which Flower uses, ends at a proxy of a kind that it does not know, whatever no_proxy says."""
    for name, value in DEAD_PROXIES.items():
        bare.setenv(name, value)
    with pytest.raises(ValueError, match="Unknown scheme for proxy"):
        httpx.Client()
    for name, value in environment.of_flower(Path("/x"), server).items():
        bare.setenv(name, value)
    with httpx.Client() as client:
        assert client._transport_for_url(httpx.URL(f"https://{server}/health")) is client._transport


def test_importing_the_federation_keeps_loopback_from_proxies(bare: pytest.MonkeyPatch) -> None:
    code = "import mpssl_fed.federation, urllib.request as r; print(r.proxy_bypass('127.0.0.1'), r.proxy_bypass('other.example'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **DEAD_PROXIES}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() in (["True", "False"], ["1", "0"])


def test_a_short_folder_is_the_usual_one_where_that_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = tempfile.gettempdir()
    with short_folder(len(usual), "") as folder:
        assert str(folder) == usual
    assert Path(usual).is_dir()
    monkeypatch.setattr(files, "SHORT", (str(tmp_path / "none"), str(tmp_path)))  # the first that can be written
    with short_folder(len(usual) - 1, "") as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "socket").touch()
    assert not folder.exists()
    monkeypatch.setattr(files, "SHORT", (str(tmp_path / "none"),))
    with pytest.raises(UserError, match=rf"TMPDIR={usual}: \d+ bytes long, and why; set TMPDIR"), short_folder(1, "and why"):
        pass


def test_ray_is_told_of_it_for_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    deep = tmp_path / ("long" * 25)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with short_folder_for_ray():
        told = Path(os.environ["RAY_TMPDIR"])
        assert told.is_dir()
        assert len(str(told)) <= LONGEST_FOR_RAY
    assert "RAY_TMPDIR" not in os.environ
    assert not told.exists()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with short_folder_for_ray():
        assert os.environ["RAY_TMPDIR"] == "/tmp"
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with pytest.raises(UserError, match=r"RAY_TMPDIR=.*bytes long"), short_folder_for_ray():
        pass


def test_how_often_flower_polls_is_the_users_where_they_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supercore.superexec import run_superexec  # the name and the range are Flower's

    (name,) = environment.FLOWERS_POLL
    assert name == run_superexec._TASK_POLL_INTERVAL_ENV
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(name, environment.of_flower(Path("/x"))[name])
    assert run_superexec._get_task_poll_interval() < run_superexec._DEFAULT_TASK_POLL_INTERVAL_SECONDS
    monkeypatch.setenv(name, "5")
    assert environment.of_flower(Path("/x"))[name] == "5"
