"""A whole deployment on one machine: SuperLink, a daemon and a SuperNode per site, one run, and everything down again."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpssl_fed import environment
from mpssl_fed.config import Config, to_yaml
from mpssl_fed.deployment import certs
from mpssl_fed.deployment import superlink as control
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.processes import GRACE_S, Children
from mpssl_fed.deployment.rehearsal_policy import policy_of
from mpssl_fed.deployment.submit import submit, with_absolute_paths
from mpssl_fed.deployment.supernode import relaying, supernode_command
from mpssl_fed.deployment.warm.nest import beside
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines.simulation import preflight
from mpssl_fed.federation.server.deployed_run import with_task
from mpssl_fed.files import short_folder, write_atomic, write_json
from mpssl_fed.runs.lock import holding
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import is_run
from mpssl_fed.runs.where import refuse_occupied, refuse_within_data
from mpssl_fed.runs.written import is_ours

HOST = "127.0.0.1"
START_S = 600.0  # on a busy machine; what died is seen at once
AGAIN_S, MOST_DEATHS = 5.0, 20
DYING_MOMENTS = 1000
"""Hundredths of a second that a process which was killed may take to let go of the run: else its sites' ledgers were lost."""
SHORT_ENOUGH = 70
"""Bytes of a temporary folder that leave room for the sockets in a deployment's own."""


@dataclass
class Deployment:
    """One deployment in a private temporary folder; use it as ``with Deployment(config, run) as up: up.serve(progress)``.

    config: a resolved config; run: the run directory to be. Leaving the block ends every process and deletes the folder,
    whatever happened in it.
    """

    config: Config
    run: Path
    resume: bool = False
    overwrite: bool = False
    port: int | None = None
    note: Callable[[str], None] = print
    home: Path = field(init=False)
    sockets: Path = field(init=False)
    address: str = field(init=False)
    children: Children = field(init=False)
    flower: control.FlowerCommand = field(init=False)
    policy: dict[str, Any] = field(init=False)
    _deaths: dict[str, int] = field(default_factory=dict)
    _again: list[tuple[float, str]] = field(default_factory=list)
    _last: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.run = self.run.absolute()
        federation = self.config.federation.model_copy(update={"backend": "deployment"})
        self.config = _windowed_already(with_task(with_absolute_paths(self.config.model_copy(update={"federation": federation}))))
        refuse_within_data(self.run, [self.config])
        refuse_occupied(self.run, resume=self.resume, overwrite=self.overwrite)
        preflight(self.config)
        self.policy = policy_of(self.config)

    def __enter__(self) -> Deployment:
        with ExitStack() as opened:
            short = opened.enter_context(short_folder(SHORT_ENOUGH, "and the path of a Unix socket ends at 107 bytes"))
            self.home = Path(tempfile.mkdtemp(prefix="mpssl-fed-"))
            elsewhere = short != Path(tempfile.gettempdir())
            self.sockets = short if elsewhere else self.home
            self.children = Children(self.home, *((short,) if elsewhere else ()))
            self._last = opened.pop_all()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, _kind: object = None, raised: BaseException | None = None, _trace: object = None) -> None:
        """End everything and keep the sites' state and logs in the run directory; after a second Ctrl-C nothing is waited for.

        Where there is no room for them that is said, and hides no other error; what an earlier deployment kept stays whole.
        """
        twice = isinstance(raised, KeyboardInterrupt) and isinstance(raised.__context__, KeyboardInterrupt)
        try:
            self.children.end(0 if twice else GRACE_S)
            try:
                with holding(self.run, DYING_MOMENTS) if self.run.is_dir() else nullcontext():
                    self._keep_sites_and_logs()
            except UserError as error:
                self.note(f"sites and logs are not kept: {error}")
        finally:
            self.children.stop()
            self._last.close()

    def _keep_sites_and_logs(self) -> None:
        for name in ("sites", "logs") if is_run(self.run) else ():
            try:
                _keep(self.home / name, self.run / name)
            except OSError as error:
                first = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
                self.note(f"{self.run / name}: not kept ({first})")

    def serve(self, progress: Progress) -> dict[str, Any]:
        """Submit the run, show it as it goes and return its manifest; UserError with the reason when it fails."""
        output = self.config.output.model_copy(update={"resume": self.resume, "overwrite": self.overwrite})
        config = self.config.model_copy(update={"output": output})
        return submit(self.flower, config, self.run, self.home, progress, alive=self._supervise)

    def _start(self) -> None:
        sites, keys = range(self.config.federation.sites), self.home / "keys"
        keys.mkdir(mode=0o700)
        certs.make_ca(keys)
        certs.make_server_certificate(keys, ("localhost", HOST))
        (keys / certs.CA_KEY).unlink()  # nothing more will be signed
        link_port, *node_ports = free_ports(1 + len(sites), self.port)
        self.address = address = f"{HOST}:{link_port}"
        self.note(f"SuperLink at {address}, {len(sites)} sites, one user for all: {_trust()}")
        link = control.superlink_command(keys, self.home / "superlink.db", HOST, link_port)
        self.children.start("superlink", link, environment.of_flower(self.home / "flower", address))
        (self.home / "sites").mkdir()
        _finish_keeping(self.run / "sites")
        if self.resume and (self.run / "sites").is_dir():
            shutil.copytree(self.run / "sites", self.home / "sites", dirs_exist_ok=True)
        policy = self._policy()
        for site in sites:
            self._start_daemon(site, policy)
        self._await(lambda: control.healthy(address, keys / certs.CA_CERT), "the SuperLink")
        self.flower = control.FlowerCommand(address, keys / certs.CA_CERT, self.home / "flower", self.children.run)
        for site, port in zip(sites, node_ports, strict=True):
            private, public = certs.make_site_key(keys, f"site-{site}")
            self.flower.register(public, f"site-{site}")
            command = supernode_command(address, keys / certs.CA_CERT, private, self._node_config(site), port)
            self.children.start(f"supernode-{site}", command, self._node_variables())
        self._await(lambda: all(self._ready(site) for site in sites), "the site daemons")

    def _ready(self, site: int) -> bool:
        return self._socket(site).exists()

    def _node_variables(self) -> dict[str, str]:
        home = self.home / "flower"
        return beside(home, environment.of_flower(home, self.address))

    def _node_config(self, site: int) -> str:
        return relaying(self._socket(site))

    def _start_daemon(self, site: int, policy: Path) -> None:
        data = self.home / "data" / str(site)
        listing = data / "labels.csv" if data.is_dir() else write_share(data, self.config, site)
        task = parts.task(self.config)
        classes = write_json(self.home / "classes.json", list(task.classes), mode=0o600)  # a name may hold a comma or a line end
        command = [
            sys.executable, "-m", "mpssl_fed.cli", "site", "run", "--name", f"site-{site}", "--number", str(site),
            "--data", str(listing), "--classes", str(classes), "--size", str(task.size),
            "--stored-size", str(task.stored_size or task.size), "--channels", str(task.channels), "--fit", task.fit,
            "--policy", str(policy), "--state", str(self.home / "sites" / str(site)), "--socket", str(self._socket(site)),
            "--trust-bundles", "--device", self.config.runtime.device,
        ]  # fmt: skip
        if self.config.generator.path is not None:
            command += ["--generator-path", self.config.generator.path]
        self.children.start(f"daemon-{site}", command, {**environment.SWITCHES, "OMP_NUM_THREADS": "1"})

    def _policy(self) -> Path:
        """Write the policy of all sites: what the config asks, and no more."""
        return write_atomic(self.home / "policy.yaml", to_yaml(self.policy), mode=0o600)

    def _socket(self, site: int) -> Path:
        return self.sockets / f"{site}.sock"

    def _await(self, ready: Callable[[], bool], what: str) -> None:
        ends = time.monotonic() + START_S
        while not ready():
            self._require_alive()
            if time.monotonic() > ends:
                raise UserError(f"{what} did not come up within {START_S:g} s")
            time.sleep(0.2)

    def _supervise(self) -> None:
        """Start daemons and SuperNodes that died again; without its SuperLink a run is over.

        A SuperNode may be turned away for about a minute, until the SuperLink has given up the one before it.
        """
        for name in list(self.children.running):
            if self.children.running[name].poll() is None:
                continue
            self._deaths[name] = self._deaths.get(name, 0) + 1
            if name == "superlink" or self._deaths[name] > MOST_DEATHS:
                tail = self.children.log_tail(name)
                raise UserError(f"{name} ended by itself; the run is continued with --resume. The end of its log:\n{tail}")
            self._again.append((time.monotonic() + AGAIN_S, name))
            del self.children.running[name]
            self.note(f"{name} ended; it is started again")
        due = [name for at, name in self._again if time.monotonic() >= at]
        self._again = [(at, name) for at, name in self._again if name not in due]
        for name in due:
            self.children.restart(name)

    def _require_alive(self) -> None:
        name = self.children.ended()
        if name is not None:
            raise UserError(f"{name} ended by itself. The end of its log:\n{self.children.log_tail(name)}")


def _windowed_already(config: Config) -> Config:
    """Return ``config`` with no window for the sites to agree on: their shares are PNG files to which it was applied."""
    task = None if config.data.task is None else config.data.task.model_copy(update={"window": None})
    return config.model_copy(update={"data": config.data.model_copy(update={"task": task})})


def free_ports(count: int, first: int | None = None, host: str = HOST) -> list[int]:
    """Return ``count`` free TCP ports on ``host``; UserError when ``first`` is asked for and cannot be had, with the reason."""
    with ExitStack() as held:
        ports = []
        for number in [first or 0, *[0] * (count - 1)]:
            try:
                family, kind, _, _, place = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
                listener = held.enter_context(socket.socket(family, kind))
                listener.bind(place)
            except OverflowError as error:
                raise UserError(f"--port {number}: want a number from 1 to 65535") from error
            except OSError as error:
                raise UserError(f"--port {number}: {_unbound(error, host)}") from error
            ports.append(int(listener.getsockname()[1]))
    return ports


def _unbound(error: OSError, host: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"in use on {host}; choose another or leave it out"
    if error.errno == errno.EACCES:
        return f"this user may not listen there on {host}; choose one from 1024 on"
    return f"nobody can listen on {host} here ({error.strerror or error}); give an address of this machine"


def _keep(source: Path, target: Path) -> None:
    """Put a copy of a folder into the run directory, closed to other users: a whole one, or the one that was there stays."""
    if not source.is_dir():
        return
    _finish_keeping(target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as fresh:
        shutil.copytree(source, fresh, dirs_exist_ok=True)
        _carry_over(target, Path(fresh))
        old = Path(f"{fresh}.old")
        if target.is_dir():
            target.rename(old)
        Path(fresh).rename(target)
        target.chmod(0o700)
        shutil.rmtree(old, ignore_errors=True)


def _finish_keeping(target: Path) -> None:
    """End what a kill cut short in :func:`_keep`: once the old folder has been moved aside the fresh one beside it is whole."""
    for old in sorted(target.parent.glob(f".{target.name}.*.old")):
        fresh = old.with_suffix("")
        if not target.exists():
            (fresh if fresh.is_dir() else old).rename(target)
            target.chmod(0o700)
        shutil.rmtree(old, ignore_errors=True)


def _carry_over(old: Path, fresh: Path) -> None:
    """Copy what only the old folder has and no run wrote (an audit, notes) into the one that takes its place."""
    for path in sorted(old.rglob("*")) if old.is_dir() and not old.is_symlink() else ():
        name = path.relative_to(old)
        if path.is_file() and not (fresh / name).exists() and not is_ours(Path(old.name) / name):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, fresh / name)


def _trust() -> str:
    return f"a rehearsal, app bundles are trusted (uid {os.geteuid()})"
