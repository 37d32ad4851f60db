"""Flower's command ``flwr-clientapp``, for a SuperNode that has a nest: asks that for a process, else becomes the command itself.

A script that runs for each message, so it imports only what Python brings along. See :mod:`mpssl_fed.deployment.warm.nest`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from pathlib import Path

NEST = "MPSSL_FED_NEST"
"""Variable that names the nest's socket, an abstract one: it ends with the nest. Another user who takes the name is not trusted."""

COMMAND = "flwr-clientapp"
DONE, MOST_WORDS, PATIENCE_S = b"forked", 1 << 16, 10.0


def peer_uid(connection: socket.socket) -> int:
    """Return the user id at the other end of a Unix socket; of the one that listened, where this end connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def handed_over(name: str, words: list[str]) -> bool:
    """Whether the nest ``name``, of this very user, has made a process that does what ``words`` say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nest:
        nest.settimeout(PATIENCE_S)
        try:
            nest.connect(f"\0{name}")
            if peer_uid(nest) != os.geteuid():
                return False
            nest.sendall(json.dumps(words).encode())
            return nest.recv(len(DONE)) == DONE
        except OSError:
            return False


def main() -> None:
    """Hand over or, where there is no nest, do as if this script were not there."""
    name = os.environ.get(NEST)
    if not name or not handed_over(name, sys.argv[1:]):
        command = str(Path(sys.executable).with_name(COMMAND))
        os.execv(command, [command, *sys.argv[1:]])


if __name__ == "__main__":
    main()
