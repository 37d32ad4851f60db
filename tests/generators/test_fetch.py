from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_pretrained_biggan.model as package

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.biggan import cache_folder
from mpssl_fed.generators.fetch import fetch

NAME = "biggan-deep-128"


class Server:
    """A local server of one folder that honours Range and can cut a reply short."""

    def __init__(self, folder: Path) -> None:
        self.ranges: list[str | None] = []
        self.cut: int | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                path = folder / self.path.lstrip("/")
                if not path.is_file():
                    self.send_error(404)
                    return
                data = path.read_bytes()
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                if asked and start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.send_header("ETag", '"v1"')
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                self.wfile.write(data[start:] if outer.cut is None else data[start : outer.cut])

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(write_biggan, tmp_path, monkeypatch) -> Iterator[Server]:
    folder = write_biggan("published")
    server = Server(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(package.PRETRAINED_MODEL_ARCHIVE_MAP, NAME, f"{server.url}/pytorch_model.bin")
    monkeypatch.setitem(package.PRETRAINED_CONFIG_ARCHIVE_MAP, NAME, f"{server.url}/config.json")
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def test_fetched_weights_load_by_name_and_their_sum_is_recorded(server):
    folder = fetch(NAME)
    assert folder == cache_folder(NAME)
    assert load_generator(NAME).size == 32
    recorded = json.loads((folder / "sha256.json").read_text())
    assert recorded == {file: sha256(folder / file) for file in ("pytorch_model.bin", "config.json")}
    assert not list(folder.glob("*.part"))


def test_cut_download_continues_where_it_stopped(server):
    server.cut = 1000
    with pytest.raises(UserError, match=r"ended after 1000 of \d+ bytes.*Run it again to go on"):
        fetch(NAME)
    assert not (cache_folder(NAME) / "pytorch_model.bin").exists()
    server.cut = None
    fetch(NAME)
    assert server.ranges[-1] == "bytes=1000-"
    assert load_generator(NAME).size == 32


def test_given_sum_is_held(server, tmp_path):
    right = sha256(tmp_path / "published" / "pytorch_model.bin")
    with pytest.raises(UserError, match=rf"its sha256 is {right}, not the expected {'0' * 64}"):
        fetch(NAME, "0" * 64)
    assert not (cache_folder(NAME) / "pytorch_model.bin").exists()
    assert not (cache_folder(NAME) / "pytorch_model.bin.part").exists()
    fetch(NAME, right.upper())
    with pytest.raises(UserError, match="expected"):
        fetch(NAME, "1" * 64)


def test_later_fetch_is_held_to_the_first(server, tmp_path):
    folder = fetch(NAME)
    (folder / "pytorch_model.bin").unlink()
    (tmp_path / "published" / "pytorch_model.bin").write_bytes(b"something else")
    with pytest.raises(UserError, match="expected"):
        fetch(NAME)
    assert not (folder / "pytorch_model.bin").exists()


def test_unknown_name_bad_sum_and_missing_page(server, tmp_path):
    with pytest.raises(UserError, match=r"'biggan-deep-129'.*Did you mean"):
        fetch("biggan-deep-129")
    with pytest.raises(UserError, match="not 64 hexadecimal digits"):
        fetch(NAME, "abc")
    (tmp_path / "published" / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"404: Not Found.*put it at .*pytorch_model.bin"):
        fetch(NAME)


def test_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(package.PRETRAINED_CONFIG_ARCHIVE_MAP, NAME, "http://127.0.0.1:9/config.json")
    with pytest.raises(UserError, match=r"download of .* failed.*by other means and put it at"):
        fetch(NAME)
