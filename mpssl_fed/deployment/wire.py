"""Between relay and daemon: HTTP on a Unix socket, JSON for scalars, safetensors for arrays; no pickle, no torch.

    POST /v1/train   safetensors, the request as JSON under the metadata key "request"; the reply likewise under "metrics"
    POST /v1/evaluate  the same request; the reply is one table, under "metrics" the std of its noise
    POST /v1/secure  JSON: keys, shares and signatures of a sum of masked updates; the reply is JSON too
    GET  /v1/card    {"site": number}
    GET  /v1/status  for the owner alone
    GET  /healthz    for the owner alone: {"status": "ok"}, or with status 503 "stuck"
A refusal is {"code": CODE} with status 4xx or 5xx.
"""

from __future__ import annotations

import http.client
import math
import socket
import time
from pathlib import Path

from mpssl_fed.federation.array_bytes import MOST_HEADER, Arrays, pack, unpack

__all__ = ["MOST_HEADER", "Arrays", "Connection", "call", "pack", "unpack"]

TRAIN, EVALUATE, SECURE = "/v1/train", "/v1/evaluate", "/v1/secure"
CARD, STATUS, HEALTH = "/v1/card", "/v1/status", "/healthz"
ARRAYS_TYPE = "application/x-safetensors"
MOST_BYTES = 2 << 30


class Connection(http.client.HTTPConnection):
    """An HTTP connection over the Unix socket ``path``."""

    def __init__(self, path: str | Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self) -> None:
        """Connect; OSError where no one listens, TimeoutError where the queue before the socket stays full."""
        given_up = math.inf if self.timeout is None else time.monotonic() + self.timeout
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            try:
                return self.sock.connect(self.path)
            except BlockingIOError:  # a full queue: with a timeout Linux does not wait for a place in it
                self.sock.close()
            except BaseException:
                self.sock.close()
                raise
            if time.monotonic() >= given_up:
                raise TimeoutError(f"{self.path}: its queue stayed full for {self.timeout:g} s")
            time.sleep(0.02)


def call(path: str | Path, method: str, target: str, body: bytes | None = None, timeout: float | None = 30.0) -> tuple[int, bytes]:
    """Return (status, body) of one request; OSError or http.client.HTTPException when it breaks."""
    connection = Connection(path, timeout)
    try:
        connection.request(method, target, body, {"Content-Type": ARRAYS_TYPE} if body else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
