"""Word to systemd that a daemon is ready and alive (sd_notify(3)); nothing where no systemd listens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"


def notify(word: str) -> None:
    """Send one word to the socket that systemd names in NOTIFY_SOCKET. A supervisor that is gone is no fault of the daemon's."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)
        out.sendto(word.encode(), "\0" + name[1:] if name[0] == "@" else name)


class Heartbeat:
    """Tells systemd, twice in each span of its WatchdogSec=, that the process lives; silent where it asks for no such word."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        text = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self.every = int(text) / 2e6 if mine and text.isascii() and text.isdigit() else 0.0
        self.clock, self.last = clock, float("-inf")

    def beat(self) -> None:
        """Send the word, if it is time."""
        if self.every and self.clock() - self.last >= self.every:
            self.last = self.clock()
            notify(ALIVE)
