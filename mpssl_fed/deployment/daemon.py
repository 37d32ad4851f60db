"""The owner's long-lived process: everything private lives here, behind a Unix socket that knows who calls."""

from __future__ import annotations

import ctypes
import io
import json
import logging
import os
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from mpssl_fed.deployment import wire
from mpssl_fed.deployment.notify import STOPPING, Heartbeat, notify
from mpssl_fed.deployment.resident import Resident
from mpssl_fed.deployment.warm.handover import peer_uid
from mpssl_fed.deployment.worker import MOST_WAITING
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal

log = logging.getLogger("mpssl_fed.daemon")
PR_SET_DUMPABLE = 4
MOST_CALLERS, MOST_QUEUED, CHUNK = 8, 64, 1 << 16
STALL_S, REQUEST_S = 60.0, 300.0
"""A caller that stops in the middle of a request is cut off, and so is one that makes a request last."""
LINGER_S = 2.0
"""So long one who was turned away may take to read that."""
TURNED_AWAY = b'HTTP/1.1 403 Forbidden\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{"code": "policy"}'


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

    Messages of more than ``most_bytes`` are not kept, nor more of them at once than may wait. The SuperNode's user has
    MOST_CALLERS connections, the owner any, other users none. ``start_again`` is called once the training thread is stuck.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_QUEUED

    def __init__(
        self,
        resident: Resident,
        door: Door,
        facts: dict[str, Any],
        most_bytes: int = wire.MOST_BYTES,
        start_again: Callable[[], None] = lambda: None,
    ) -> None:
        self.resident, self.door, self.facts, self.most_bytes, self.start_again = resident, door, facts, most_bytes, start_again
        self.turned_away, self._heart = 0, Heartbeat()
        self._leaving: deque[tuple[float, socket.socket]] = deque()
        self.bodies = threading.BoundedSemaphore(MOST_WAITING)
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
        notify(STOPPING)
        threading.Thread(target=self.shutdown, daemon=True).start()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn a user away who is not admitted, before it costs a thread, a place or a read."""
        if self.door.admits(peer_uid(request), owner_only=False):
            return True
        self.turned_away += 1
        if str(self.turned_away).rstrip("0") == "1":  # the 1st, 10th, 100th: nobody may fill the log
            log.warning("a caller of another user was turned away (%d so far)", self.turned_away)
        with suppress(OSError):
            request.setblocking(False)
            request.sendall(TURNED_AWAY)
            self._leaving.append((time.monotonic() + LINGER_S, request.dup()))
        self._see_off(len(self._leaving) - MOST_QUEUED)
        return False

    def service_actions(self) -> None:
        """Close, now and then, the connections of those who were turned away; tell systemd that training is not stuck."""
        if not self.resident.hung:
            self._heart.beat()
        now = time.monotonic()
        self._see_off(sum(at < now for at, _ in self._leaving))

    def _see_off(self, count: int) -> None:
        """Close the oldest ``count`` of them. Closed at once, one who had not sent all yet would break off before it reads why."""
        for _ in range(count):
            self._leaving.popleft()[1].close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in a thread, unless its user has too many: a hostile bundle must not use up memory and threads."""
        if _is_owner(request):
            super().process_request(request, client_address)
            return
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        owner = _is_owner(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            if not owner:
                self._room.release()
            if self.resident.hung:
                self.start_again()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is the caller's affair: no traceback."""
        log.warning("a caller went away")


class Handler(BaseHTTPRequestHandler):
    """One request: six targets, no other, nothing in a URL but its name."""

    server: Daemon
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mpssl-fed", ""
    timeout = STALL_S

    def setup(self) -> None:
        """Read with a limit on each wait and on all of them."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Timed(self.connection, time.monotonic() + REQUEST_S))

    def do_GET(self) -> None:
        """Card, status or health."""
        if self.path == wire.CARD:
            self._answer(lambda: json.dumps({"site": self.server.resident.number}).encode())
        elif self.path == wire.STATUS:
            self._answer(lambda: json.dumps(self._status()).encode(), owner_only=True)
        elif self.path == wire.HEALTH:
            stuck = self.server.resident.hung
            self._answer(lambda: json.dumps({"status": "stuck" if stuck else "ok"}).encode(), True, 503 if stuck else 200)
        else:
            self._refuse(404, "malformed")

    def do_POST(self) -> None:
        """Train, evaluate, or take part in a sum."""
        resident = self.server.resident
        work = {wire.TRAIN: resident.train, wire.EVALUATE: resident.evaluate, wire.SECURE: resident.secure}.get(self.path)
        if work is None:
            self._refuse(404, "malformed")
            return
        self._answer(lambda: self._worked(work))

    def _status(self) -> dict[str, Any]:
        return self.server.facts | self.server.resident.status() | {"turned_away": self.server.turned_away}

    def _worked(self, work: Callable[[bytes], bytes]) -> bytes:
        """Return ``work``'s reply to the body that follows; while as many are held as may wait, it is read past and not kept."""
        if not self.server.bodies.acquire(blocking=False):
            self._read_past(self._length())
            raise Refusal("busy")
        try:
            return work(self._body())
        finally:
            self.server.bodies.release()

    def _answer(self, work: Callable[[], bytes], owner_only: bool = False, status: int = 200) -> None:
        if not self.server.door.admits(peer_uid(self.connection), owner_only):
            self._refuse(403, "policy")
            return
        try:
            answer = work()
        except Refusal as refusal:
            self._refuse(409, refusal.code)
            return
        self._send(status, answer)

    def _body(self) -> bytes:
        length = self._length()
        if length > self.server.most_bytes:
            self._read_past(length)
            raise Refusal("model-size")
        body = self.rfile.read(length)
        if len(body) != length:
            raise Refusal("malformed")
        return body

    def _length(self) -> int:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 12 or int(length) > wire.MOST_BYTES:
            raise Refusal("malformed")
        return int(length)

    def _read_past(self, length: int) -> None:
        """Read a body and keep nothing: a caller that is cut off while it sends never reads the answer."""
        while length > 0 and (chunk := self.rfile.read(min(CHUNK, length))):
            length -= len(chunk)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"code": code}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.connection.settimeout(STALL_S)  # for all of it
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request of HTTP as any other that is malformed; nothing of it is sent back."""
        self._refuse(code, "malformed")

    def address_string(self) -> str:
        """A Unix socket has no address."""
        return "socket"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged by what they come to, not by what they say."""


class _Timed(io.RawIOBase):
    """Reads from ``connection`` until the moment ``ends``; TimeoutError after it, or when nothing comes for STALL_S."""

    def __init__(self, connection: socket.socket, ends: float) -> None:
        self.connection, self.ends = connection, ends

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there into ``buffer``."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(min(STALL_S, left))
        return self.connection.recv_into(buffer)


def _is_owner(connection: socket.socket) -> bool:
    return peer_uid(connection) in (0, os.geteuid())


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
