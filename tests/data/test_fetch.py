"""Downloads against a real HTTP server on loopback that knows Range, If-Range and broken connections."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mpssl_fed.data.fetch import ARCHIVES, Archive, fetch_dataset
from mpssl_fed.download import download
from mpssl_fed.errors import UserError
from tests.killed import every_kill

BODY = bytes(range(256)) * 40_000  # 10 MB, so that a broken transfer leaves whole chunks behind


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etag: str | None = '"one"'
        self.break_after: int | None = None
        self.ranges: list[str | None] = []
        self.honour_range = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of a reader that was killed."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, body = self.server, self.server.files.get(self.path.lstrip("/"))
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if body is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.honour_range else 0
        if self.headers.get("If-Range") not in (None, server.etag):
            start = 0
        if start >= len(body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body) if server.break_after is None else start + server.break_after
        self.wfile.write(body[start:end])

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.files["data.bin"] = BODY
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def broken_off(server: Server, path: Path, **sums: str) -> int:
    server.break_after = 5_000_000
    with pytest.raises(UserError, match=r"the connection ended after \d+ of 10240000 bytes\. Run it again to go on, or get"):
        download(server.url("data.bin"), path, **sums)
    server.break_after = None
    assert not path.exists()
    return path.with_name("data.bin.part").stat().st_size


def test_whole_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new" / "data.bin"
    for _ in range(2):
        assert download(server.url("data.bin"), path, md5(BODY), hashlib.sha256(BODY).hexdigest().upper()) == path
    assert path.read_bytes() == BODY
    assert server.ranges == [None]
    assert [file.name for file in path.parent.iterdir()] == ["data.bin"]


def test_it_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    done = broken_off(server, path)
    assert done >= 4_000_000
    assert download(server.url("data.bin"), path).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={done}-"]


def test_a_changed_file_starts_anew(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    broken_off(server, path)
    server.files["data.bin"], server.etag = BODY[::-1], '"two"'
    assert download(server.url("data.bin"), path).read_bytes() == BODY[::-1]


def test_a_kill_before_a_changed_file_never_joins_the_old_bytes_to_the_new(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "there" / "data.bin"
    old, new = BODY[:3_000_000], BODY[:3_000_000][::-1]

    def prepare() -> None:
        shutil.rmtree(path.parent, ignore_errors=True)
        server.files["data.bin"], server.etag, server.break_after = old, '"one"', 2_500_000
        with pytest.raises(UserError, match="the connection ended"):
            download(server.url("data.bin"), path)
        server.files["data.bin"], server.etag, server.break_after = new, '"two"', None

    for _ in every_kill(path.parent, prepare, lambda: download(server.url("data.bin"), path)):
        assert download(server.url("data.bin"), path).read_bytes() == new


def test_a_server_without_range_or_etag(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    server.etag = None
    broken_off(server, path)  # no checksum and no ETag: nothing vouches for the first half
    download(server.url("data.bin"), path)
    assert server.ranges == [None, None]
    path.unlink()
    done = broken_off(server, path, md5=md5(BODY))
    download(server.url("data.bin"), path, md5(BODY))
    assert server.ranges[2:] == [None, f"bytes={done}-"]
    path.unlink()
    broken_off(server, path, md5=md5(BODY))
    server.honour_range = False
    assert download(server.url("data.bin"), path, md5(BODY)).read_bytes() == BODY


def test_a_complete_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.with_name("data.bin.part").write_bytes(BODY)
    path.with_name("data.bin.part.json").write_text(json.dumps({"url": server.url("data.bin"), "validator": '"one"'}))
    assert download(server.url("data.bin"), path, md5(BODY)).read_bytes() == BODY
    path.unlink()
    path.with_name("data.bin.part").write_bytes(BODY + b"too long")
    path.with_name("data.bin.part.json").write_text(json.dumps({"url": server.url("data.bin"), "validator": '"one"'}))
    assert download(server.url("data.bin"), path).read_bytes() == BODY


def test_wrong_sum_is_thrown_away(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    with pytest.raises(UserError, match=rf"its md5 is {md5(BODY)}, not the expected 00; the file was thrown away"):
        download(server.url("data.bin"), path, "00")
    with pytest.raises(UserError, match=r"its sha256 is .*, not the expected 00"):
        download(server.url("data.bin"), path, sha256="00")
    assert not path.exists()
    assert not path.with_name("data.bin.part").exists()


def test_no_network_no_file_no_folder(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"failed: HTTP Error 404: .* put it at .*data.bin"):
        download(server.url("gone.bin"), tmp_path / "data.bin")
    with pytest.raises(UserError, match=r"download of http://127.0.0.1:9/x to .* failed: .*Connection refused"):
        download("http://127.0.0.1:9/x", tmp_path / "x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"failed: .*file"):
        download(server.url("data.bin"), tmp_path / "file" / "data.bin")


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_fetch_unpacks_where_the_reader_looks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import DTD

    body = tar_gz({"dtd/labels/train1.txt": b"x", "attributes.txt": b"theirs"})
    server.files["dtd.tar.gz"] = body
    monkeypatch.setattr(DTD, "_URL", server.url("dtd.tar.gz"))
    monkeypatch.setattr(DTD, "_MD5", md5(body))
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "attributes.txt").write_text("mine")
    for _ in range(2):
        assert fetch_dataset("dtd", tmp_path) == [tmp_path / "dtd" / "dtd"]
    assert (tmp_path / "dtd" / "dtd" / "labels" / "train1.txt").read_bytes() == b"x"
    assert (tmp_path / "dtd" / "attributes.txt").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "dtd").iterdir()) == ["attributes.txt", "dtd"]
    assert len(server.ranges) == 1


def test_files_that_stay_packed_are_checked_each_time(server: Server, tmp_path: Path) -> None:
    ARCHIVES.add("loose")(lambda: [Archive(server.url("data.bin"), md5(BODY), "raw")])
    try:
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "data.bin").write_bytes(b"cut short")
        assert fetch_dataset("loose", tmp_path)[0].read_bytes() == BODY
    finally:
        del ARCHIVES._parts["loose"]


def test_an_own_address_for_a_set_without_one(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names no address for it. Put its official files at .*CUB_200_2011, or give"):
        fetch_dataset("birds", tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("CUB_200_2011/images.txt", "1 a/b.jpg\n")
    server.files["cub.zip"] = buffer.getvalue()
    with pytest.raises(UserError, match="its sha256 is"):
        fetch_dataset("birds", tmp_path, server.url("cub.zip"), sha256="00")
    fetch_dataset("birds", tmp_path, server.url("cub.zip"), sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    assert (tmp_path / "CUB_200_2011" / "images.txt").is_file()
    with pytest.raises(UserError, match="'ftp://x/y' is no http"):
        fetch_dataset("cars", tmp_path, "ftp://x/y")
    with pytest.raises(UserError, match="Did you mean 'flowers'"):
        fetch_dataset("flower", tmp_path)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (tar_gz({"other/file": b"x"}), "holds no folder 'CUB_200_2011'"),
        (tar_gz({"../outside": b"x"}), "cannot unpack .*outside"),
        (tar_gz({"CUB_200_2011/a": b"x" * 5000})[:60], "cannot unpack"),
        (b"<html>not found</html>", "cannot unpack"),
    ],
    ids=["no-folder", "outside", "cut", "html"],  # gzip writes the time: bytes would give each worker another name
)
def test_bad_archives(server: Server, tmp_path: Path, body: bytes, text: str) -> None:
    server.files["cub.tgz"] = body
    with pytest.raises(UserError, match=text):
        fetch_dataset("birds", tmp_path / "root", server.url("cub.tgz"))
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "cub.tgz"]


def test_addresses_and_sums_are_torchvision_s() -> None:
    for name in ("aircraft", "cifar10", "dtd", "fashion-mnist", "flowers", "pets"):
        archives = ARCHIVES[name]()
        assert all(archive.url.startswith("http") and archive.filename for archive in archives)
        assert all(archive.md5 for archive in archives) == (name != "aircraft")
