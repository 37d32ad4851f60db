"""Where a server may listen: a host in any spelling, IPv6 too, and the true reason where it may not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mpssl_fed.deployment import certs
from mpssl_fed.deployment.address import is_loopback, listening
from mpssl_fed.deployment.rehearsal import _unbound, free_ports
from mpssl_fed.errors import UserError


@pytest.mark.parametrize(
    ("text", "taken", "here"),
    [
        ("LOCALHOST", "localhost", True),
        ("127.0.0.2", "127.0.0.2", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("0.0.0.0", "0.0.0.0", False),
        ("::", "::", False),
        ("10.0.0.7", "10.0.0.7", False),
        ("Fed.Example.org", "fed.example.org", False),
    ],
)
def test_a_host_to_listen_on_in_any_spelling(text: str, taken: str, here: bool) -> None:
    assert listening(text, "--host") == taken
    assert is_loopback(taken) is here


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("localhost.", "leave it out: localhost"),
        ("[::1]", "without brackets"),
        ("0.0.0.0", "--allow-open-control"),
        ("192.0.2.1", "--allow-open-control"),
    ],
)
def test_server_refuses_other_hosts(cli: Callable[..., tuple[int, str, str]], tmp_path: Path, host: str, said: str) -> None:
    status, _, error = cli("server", "--keys", tmp_path, "--database", tmp_path / "link.db", "--host", host)
    assert status == 2
    assert said in error


def test_server_says_that_key_and_certificate_are_no_pair(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    certs.make_ca(tmp_path)
    certs.make_server_certificate(tmp_path, ["localhost"])
    key = (tmp_path / certs.SERVER_KEY).read_bytes()
    certs.make_server_certificate(tmp_path, ["localhost"])
    (tmp_path / certs.SERVER_KEY).write_bytes(key)
    (port,) = free_ports(1)
    status, _, error = cli("server", "--keys", tmp_path, "--database", tmp_path / "link.db", "--port", port)
    assert status == 2
    assert "server.key is not the key of server.crt" in error


def test_a_port_that_cannot_be_had_is_told_with_the_reason() -> None:
    if socket.has_ipv6:
        with socket.socket(socket.AF_INET6) as taken:
            try:
                taken.bind(("::1", 0))
            except OSError:
                pytest.skip("no IPv6 loopback here")
            with pytest.raises(UserError, match="in use on ::1"):
                free_ports(1, int(taken.getsockname()[1]), "::1")
    with pytest.raises(UserError, match=r"nobody can listen on 192\.0\.2\.1 here"):  # an address that documents alone have
        free_ports(1, 18_431, "192.0.2.1")
    assert "choose one from 1024 on" in _unbound(PermissionError(errno.EACCES, "Permission denied"), "127.0.0.1")
