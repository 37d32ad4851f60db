"""The owner's long-lived process: everything private lives here, behind a Unix socket that knows who calls."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from mpssl_fed.deployment import wire
from mpssl_fed.deployment.resident import Resident
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal

log = logging.getLogger("mpssl_fed.daemon")
PR_SET_DUMPABLE = 4
MOST_CALLERS, CHUNK = 8, 1 << 16
STALL_S = 60.0
"""A caller that stops in the middle of a request is cut off."""


@dataclass(frozen=True)
class Door:
    """Who may call: the SuperNode's user for messages, the owner for everything. ``group`` owns the socket file."""

    path: Path
    supernode_uid: int
    group: int | None = None

    def admits(self, uid: int, owner_only: bool) -> bool:
        """Whether a process of user ``uid`` is answered."""
        return uid in ({0, os.geteuid()} if owner_only else {0, os.geteuid(), self.supernode_uid})


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves ``resident`` at ``door`` until :meth:`shutdown`; ``facts`` are added to what status shows.

    Messages of more than ``most_bytes`` are not kept. The SuperNode's user has MOST_CALLERS connections, the owner any.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, resident: Resident, door: Door, facts: dict[str, Any], most_bytes: int = wire.MOST_BYTES) -> None:
        self.resident, self.door, self.facts, self.most_bytes = resident, door, facts, most_bytes
        self._room = threading.BoundedSemaphore(MOST_CALLERS)
        prepare(door)
        super().__init__(str(door.path), Handler, bind_and_activate=False)
        before = os.umask(0o777)  # no one may connect before owner and mode are set
        try:
            self.server_bind()
        finally:
            os.umask(before)
        if door.group is not None:
            os.chown(door.path, -1, door.group)
        door.path.chmod(0o660)
        self.server_activate()

    def run(self) -> None:
        """Serve until :meth:`shutdown`, then remove the socket."""
        try:
            self.serve_forever(poll_interval=0.2)
        finally:
            self.server_close()
            self.door.path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End :meth:`run` from a signal handler."""
        threading.Thread(target=self.shutdown, daemon=True).start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, unless its user has too many: what a hostile bundle opens must not use up memory and threads."""
        if peer_uid(request) in (0, os.geteuid()):
            super().process_request_thread(request, client_address)
        elif self._room.acquire(blocking=False):
            try:
                super().process_request_thread(request, client_address)
            finally:
                self._room.release()
        else:
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is the caller's affair: no traceback."""
        log.warning("a caller went away")


class Handler(BaseHTTPRequestHandler):
    """One request: three targets, no other, nothing in a URL but its name."""

    server: Daemon
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mpssl-fed", ""
    timeout = STALL_S

    def do_GET(self) -> None:
        """Card or status."""
        if self.path == wire.CARD:
            self._answer(lambda: json.dumps({"site": self.server.resident.number}).encode())
        elif self.path == wire.STATUS:
            self._answer(lambda: json.dumps(self.server.facts | self.server.resident.status()).encode(), owner_only=True)
        else:
            self._refuse(404, "malformed")

    def do_POST(self) -> None:
        """Train."""
        if self.path != wire.TRAIN:
            self._refuse(404, "malformed")
            return
        self._answer(lambda: self.server.resident.train(self._body()))

    def _answer(self, work: Callable[[], bytes], owner_only: bool = False) -> None:
        if not self.server.door.admits(peer_uid(self.connection), owner_only):
            log.warning("a caller of another user was turned away")
            self._refuse(403, "policy")
            return
        try:
            answer = work()
        except Refusal as refusal:
            self._refuse(409, refusal.code)
            return
        self._send(200, answer)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > wire.MOST_BYTES:
            raise Refusal("malformed")
        if int(length) > self.server.most_bytes:
            for start in range(0, int(length), CHUNK):  # a caller that is cut off while it sends never reads the answer
                self.rfile.read(min(CHUNK, int(length) - start))
            raise Refusal("model-size")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Refusal("malformed")
        return body

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"code": code}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(body)

    def address_string(self) -> str:
        """A Unix socket has no address."""
        return "socket"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged by what they come to, not by what they say."""


def peer_uid(connection: socket.socket) -> int:
    """Return the user of the process at the other end, as the kernel knows it."""
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def forbid_tracing() -> None:
    """Keep other processes of this user from reading this one's memory, and memory out of core dumps (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def prepare(door: Door) -> None:
    """Remove a socket that nobody serves any more; UserError when somebody does, or when the path is too long."""
    if len(str(door.path).encode()) > 100:
        raise UserError(
            f"--socket {door.path}: longer than the 100 bytes that a Unix socket's path may have; take a shorter folder"
        )
    if not door.path.parent.is_dir():
        raise UserError(f"--socket {door.path}: no folder {door.path.parent}; make it, 0750 and of the shared group")
    if not door.path.exists():
        return
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(door.path))
    except ConnectionRefusedError:
        door.path.unlink()
        return
    except OSError as error:
        raise UserError(f"--socket {door.path}: exists and is no socket of this site ({error.strerror}); remove it") from error
    raise UserError(f"--socket {door.path}: another daemon serves this site already; stop it first")
