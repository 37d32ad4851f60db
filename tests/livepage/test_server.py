"""Who is answered: whoever names this machine as the host and the token in the address, by GET; and with what headers."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mpssl_fed.livepage.server import application
from tests.livepage.conftest import Watch
from tests.patience import PATIENCE_S
from tests.study.runs import write_run


def ask(address: str, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    """Return status, body and headers."""
    port = urlsplit(address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def test_only_the_token_and_this_machine_s_name_open_the_page(watch: Watch, tmp_path: Path) -> None:
    address = watch(write_run(tmp_path / "run", [0.1, 0.5, 0.9]))
    place, port = urlsplit(address).path, urlsplit(address).port
    token = place.strip("/")
    assert len(token) >= 40
    status, body, headers = ask(address, f"{place}state")
    assert status == 200
    assert "90.0 %" in json.loads(body)["facts"]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert "Access-Control-Allow-Origin" not in headers
    other = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (
        "/",
        "/state",
        f"/{other}/",
        f"/{other}/state",
        f"/{token}",
        f"{place}manifest.json",
        f"{place}../state",
        f"/{token}x/",
    ):
        assert ask(address, wrong)[:2] == (404, "not found"), wrong
    for host in ("example.org", f"example.org:{port}", "127.0.0.1", f"127.0.0.1:{port}.example.org", f"[::]:{port}"):
        assert ask(address, place, host)[:2] == (403, "wrong host"), host
    assert ask(address, place, f"localhost:{port}")[0] == 200
    assert ask(address, place, method="POST")[0] == 405


@pytest.mark.parametrize(("port", "host", "status"), [(80, "localhost", 200), (8080, "localhost", 403), (80, "example.org", 403)])
def test_a_browser_leaves_port_80_out(port: int, host: str, status: int) -> None:
    scope = {"type": "http", "method": "GET", "path": "/token/state", "query_string": b"", "headers": [(b"host", host.encode())]}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(application(dict, "token", port)(scope, receive, send))
    assert sent[0]["status"] == status


def test_numbers_that_no_run_writes_are_said_not_taken_for_the_end(watch: Watch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1, 0.5])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | {"test_accuracy": 1e308}) + "\n" for line in lines))
    address = watch(run)
    status, body, _ = ask(address, f"{urlsplit(address).path}state")
    assert status == 200
    assert "This cannot be shown" in json.loads(body)["finding"]


def test_it_listens_on_loopback_alone_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mpssl_fed.cli", "watch", str(write_run(tmp_path / "run", [0.1, 0.2]))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = urlsplit(process.stdout.readline()).port
        assert port is not None
        try:
            here = socket.gethostbyname(socket.gethostname())
            if not here.startswith("127."):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((here, port), timeout=PATIENCE_S)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert (process.wait(PATIENCE_S), process.stderr.read()) == (0, "")


def test_what_cannot_be_watched_is_said(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert "no such folder" in cli("watch", tmp_path / "none")[2]
    assert "neither a run nor a study nor a site's state folder" in cli("watch", tmp_path)[2]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, _, error = cli("watch", write_run(tmp_path / "run", [0.1, 0.2]), "--port", taken.getsockname()[1])
    assert status == 2
    assert "nobody can listen there" in error
