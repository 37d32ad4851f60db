"""The SuperNode that a site may start beside its daemon: as another user where there is one, started again when it dies."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpssl_fed import environment
from mpssl_fed.deployment.flower_log import level_of_flower, log_as_json
from mpssl_fed.deployment.isolation import User
from mpssl_fed.deployment.processes import MARK, kill_marked
from mpssl_fed.deployment.relay import SOCKET
from mpssl_fed.deployment.site_log import Form, Level
from mpssl_fed.deployment.warm.nest import beside

log = logging.getLogger("mpssl_fed.supernode")
AGAIN_AFTER_S = 5.0


@dataclass
class SuperNode:
    """One SuperNode and whatever it starts. ``user`` needs this process to be root."""

    server: str
    ca: Path
    key: Path
    socket: Path
    port: int
    user: str | None = None
    log_format: Form = "text"
    log_level: Level | None = None
    _over: threading.Event = field(default_factory=threading.Event, repr=False)
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, and again five seconds after each end, until :meth:`stop`."""
        threading.Thread(target=self._keep_running, daemon=True, name="supernode").start()

    def stop(self) -> None:
        """End it and everything that it started."""
        self._over.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
        kill_marked(self._token)

    def variables(self, home: Path) -> dict[str, str]:
        """Return what it is started with beside this process's environment; ``home``: for Flower's files."""
        return {**environment.of_flower(home, self.server), **level_of_flower(self.log_level)}

    @property
    def _token(self) -> str:
        return f"node-{os.getpid()}"

    def _keep_running(self) -> None:
        command = supernode_command(self.server, self.ca, self.key, relaying(self.socket), self.port)
        with tempfile.TemporaryDirectory(prefix="mpssl-fed-node-") as home:
            variables = {**os.environ, **beside(Path(home), self.variables(Path(home))), MARK: self._token}
            user = None if self.user is None else User.named(self.user)
            if user is not None:
                os.chown(home, user.uid, -1)
            while not self._over.is_set():
                self._child = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, env=variables, cwd=home, start_new_session=True,
                    user=None if user is None else user.uid, group=None if user is None else user.gid,
                    extra_groups=None if user is None else sorted(user.gids),
                    stdout=subprocess.PIPE if self.log_format == "json" else None,
                    stderr=subprocess.STDOUT if self.log_format == "json" else None,
                )  # fmt: skip
                log_as_json(self._child)
                status = self._child.wait()
                kill_marked(self._token)
                if not self._over.is_set():
                    log.warning("the SuperNode ended with status %d; again in %g s", status, AGAIN_AFTER_S)
                    self._over.wait(AGAIN_AFTER_S)


def supernode_command(server: str, ca: Path, key: Path, node_config: str, port: int) -> Sequence[str]:
    """Return the command of a SuperNode; see :func:`relaying` for its ``node_config``."""
    return [
        str(Path(sys.executable).with_name("flower-supernode")), "--superlink", server, "--root-certificates", str(ca),
        "--auth-supernode-private-key", str(key), "--port", str(port), "--node-config", node_config,
    ]  # fmt: skip


def relaying(socket: Path) -> str:
    """Return the node config of a SuperNode that relays to the daemon at ``socket``."""
    return f'{SOCKET}="{socket}"'
