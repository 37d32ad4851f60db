"""A SuperNode's ``flower-superexec`` beside a nest: a process that has imported Flower, and is forked for each message.

Flower starts ``flwr-clientapp``, by that name on the PATH, for each message, and its imports take a second of CPU: much of a round
of a few seconds. On the PATH that :func:`beside` returns a SuperNode finds a ``flower-superexec`` that is Flower's own once it has
made a nest, and a ``flwr-clientapp`` that asks the nest (:mod:`mpssl_fed.deployment.warm.handover`). Each message has a process of
its own as before, with nothing in it but imports. Whatever goes wrong with a nest leads to Flower's own command. It ends with its
SuperExec, whatever ends that.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import secrets
import selectors
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mpssl_fed.deployment.warm import handover
from mpssl_fed.files import write_atomic

SUPEREXEC = "flower-superexec"
NEEDED = ("mpssl_fed.deployment.relay",)
"""What the ClientApp of a bundle imports of this node's installed package, torch never."""

BACKLOG = 64


def beside(home: Path, variables: dict[str, str]) -> dict[str, str]:
    """Return ``variables`` of a SuperNode with our two commands, written into ``home/commands``, first on the PATH.

    Where nothing may be executed there, the PATH leads on to Flower's own.
    """
    folder, python = home / "commands", shlex.quote(sys.executable)
    scripts = {
        SUPEREXEC: f"{python} -P -m {__name__}",
        handover.COMMAND: f"{python} -IS {shlex.quote(str(Path(handover.__file__).resolve()))}",
    }
    for name, script in scripts.items():
        write_atomic(folder / name, f'#!/bin/sh\nexec {script} "$@"\n', durable=False).chmod(0o755)
    folder.chmod(0o755)  # whatever the umask: it is not for this user alone, and holds no secret
    return {**variables, "PATH": os.pathsep.join([str(folder), variables["PATH"]])}


def command(name: str) -> Callable[[], Any]:
    """Return what Flower has installed as the command ``name``; LookupError where it has no such command."""
    found = next(iter(entry_points(group="console_scripts", name=name)), None)
    if found is None:
        raise LookupError(name)
    loaded: Callable[[], Any] = found.load()
    return loaded


def main() -> None:
    """Make the nest, then do what ``flower-superexec`` does; its words are in ``sys.argv``."""
    todo, name = command(SUPEREXEC), SUPEREXEC
    app = None
    with suppress(Exception):  # without a nest every message starts Flower's own command, which says what is wrong
        app = _imported()
    with suppress(OSError):
        if app is not None and make_nest():
            todo, name = app, handover.COMMAND
    sys.argv[0] = name
    sys.exit(todo())


def _imported() -> Callable[[], Any]:
    """Return what the process of a message does, with all that it needs in memory."""
    for module in NEEDED:
        importlib.import_module(module)
    return command(handover.COMMAND)


def make_nest() -> bool:
    """Fork a nest and name it in the environment; returns False here, and True in each process that the nest makes.

    Those find their words in ``sys.argv``. OSError where there can be no nest.
    """
    name = f"mpssl-fed-{secrets.token_hex(16)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen(BACKLOG)
        ours, theirs = os.pipe()  # nobody writes: its end is the end of this process
        gc.freeze()
        if os.fork() == 0:
            os.close(theirs)
            sys.argv[1:] = _hatched(listener, ours)
            os.close(ours)
            return True
        os.close(ours)
        os.environ[handover.NEST] = name
        return False


def _hatched(listener: socket.socket, parent: int) -> list[str]:
    """Fork for each who asks, and return that one's words in the new process; the nest itself ends here, with its parent."""
    nest = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with selectors.DefaultSelector() as events:
            events.register(listener, selectors.EVENT_READ)
            events.register(parent, selectors.EVENT_READ)
            while not any(key.fileobj == parent for key, _ in events.select()):
                with suppress(OSError):  # whoever asked does without
                    connection, _ = listener.accept()
                    with connection:
                        if handover.peer_uid(connection) == os.geteuid() and os.fork() == 0:
                            return _words(connection)
    finally:
        if os.getpid() == nest:
            os._exit(0)
    raise AssertionError("the nest has ended")


def _words(connection: socket.socket) -> list[str]:
    """Return the words of who asked, told that this process does what they say; where either fails it ends, before it has begun.

    Read here and not in the nest, which neither waits for one that says nothing nor stumbles over what one says.
    """
    with suppress(OSError, ValueError, RecursionError):
        connection.settimeout(handover.PATIENCE_S)
        words = json.loads(connection.recv(handover.MOST_WORDS))
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            _begin_anew()
            connection.sendall(handover.DONE)  # fails where who asked has gone, and has become Flower's own command
            return words
    os._exit(1)


def _begin_anew() -> None:
    """Make a forked process what a fresh one is: signals as Python has them, no number drawn that another draws too."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # Python seeds its own anew after a fork


if __name__ == "__main__":
    main()
