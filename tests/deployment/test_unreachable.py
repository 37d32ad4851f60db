"""Why no SuperLink is reached: a TLS server on loopback whose certificate is another's, or of another host, or none at all."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpssl_fed.deployment import certs
from mpssl_fed.deployment.superlink import FlowerCommand, unreachable
from mpssl_fed.errors import UserError


@pytest.fixture
def serve() -> Iterator[Callable[[ssl.SSLContext | None], str]]:
    """Answer connections on loopback until the test ends: by TLS, or without a context by what is no TLS."""
    servers: list[socket.socket] = []

    def answer(server: socket.socket, context: ssl.SSLContext | None) -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                try:
                    if context is None:
                        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    else:
                        context.wrap_socket(peer, server_side=True).close()
                except OSError:
                    continue

    def start(context: ssl.SSLContext | None) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=answer, args=(server, context), daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def keys(folder: Path, host: str = "127.0.0.1") -> ssl.SSLContext:
    certs.make_ca(folder)
    certs.make_server_certificate(folder, [host])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / certs.SERVER_CERT, folder / certs.SERVER_KEY)
    return context


def test_what_stands_between_is_said_with_its_cure(serve: Callable[[ssl.SSLContext | None], str], tmp_path: Path) -> None:
    ours, theirs, named = tmp_path / "ours", tmp_path / "theirs", tmp_path / "named"
    address, ca = serve(keys(ours)), ours / certs.CA_CERT
    keys(theirs)
    assert unreachable(address, ca) == ""
    assert "take the ca.crt of the machine that made the SuperLink's keys" in unreachable(address, theirs / certs.CA_CERT)
    elsewhere = serve(keys(named, "fed.example.org"))
    assert unreachable(elsewhere, named / certs.CA_CERT).endswith(
        "does not name 127.0.0.1; make one that does: mpssl-fed certs server KEYS 127.0.0.1"
    )
    assert "does not speak TLS" in unreachable(serve(None), ca)
    assert "does not speak TLS" in unreachable(address, ours / certs.CA_KEY)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    assert "is the SuperLink up" in unreachable(f"127.0.0.1:{port}", ca)
    assert "is the SuperLink up" in unreachable("nowhere.invalid:9093", ca)


@pytest.mark.parametrize(("ahead", "said"), [(2, "not yet valid"), (-500, "expired")])
def test_a_clock_that_is_wrong_is_no_wrong_ca(
    serve: Callable[[ssl.SSLContext | None], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, said: str
) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.now(tz) + datetime.timedelta(days=ahead)

    monkeypatch.setattr(certs, "datetime", SimpleNamespace(datetime=Clock, timedelta=datetime.timedelta, UTC=datetime.UTC))
    found = unreachable(serve(keys(tmp_path)), tmp_path / certs.CA_CERT)
    assert said in found
    assert "set the clocks" in found
    assert "take the ca.crt" not in found


def test_a_wrong_certificate_is_named_where_a_site_is_registered(
    serve: Callable[[ssl.SSLContext | None], str], tmp_path: Path
) -> None:
    """By Flower's own command, whose text is of channels and never of the file to change."""
    keys(tmp_path / "theirs")
    _, public = certs.make_site_key(tmp_path, "north")
    flower = FlowerCommand(serve(keys(tmp_path / "ours")), tmp_path / "theirs" / certs.CA_CERT, tmp_path / "flower")
    with pytest.raises(
        UserError, match=r"site north was not registered: the certificate of 127\.0\.0\.1:\d+ is not trusted under .*ca\.crt"
    ):
        flower.register(public, "north")
