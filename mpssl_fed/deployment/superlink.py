"""Flower's SuperLink and its ``flwr`` command, as this toolkit starts and asks them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpssl_fed import environment
from mpssl_fed.config import Config, app_folder
from mpssl_fed.deployment import certs
from mpssl_fed.errors import UserError
from mpssl_fed.files import write_atomic

CONNECTION = "federation"
OTHER_HOST = (62, 64)
"""OpenSSL's codes of a certificate that is of another host name or address."""
OTHER_TIME = (9, 10)
"""OpenSSL's codes of one that is not valid yet, and of one that is no longer."""
Runner = Callable[[Sequence[str], dict[str, str]], "subprocess.CompletedProcess[str]"]

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mpssl-fed"
version = "{version}"
description = "Federated MP-SSL: the two apps and one config; nodes run their own installed toolkit"
license = {{ file = "LICENSE" }}
dependencies = ["{flower}"]

[tool.flwr.app]
publisher = "mpssl-fed"
fab-format-version = 1
flwr-version-target = "{target}"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
config = "configs/run.yaml"
overrides = ""
"""


def superlink_command(keys: Path, database: Path, host: str, port: int) -> list[str]:
    """Return the command of a SuperLink with TLS, SuperNode authentication and a database that outlives it."""
    return [
        tool("flower-superlink"), "--ssl-ca-certfile", str(keys / certs.CA_CERT), "--ssl-certfile", str(keys / certs.SERVER_CERT),
        "--ssl-keyfile", str(keys / certs.SERVER_KEY), "--enable-supernode-auth", "--database", str(database),
        "--disable-runtime-dependency-installation", "--host", host, "--port", str(port),
    ]  # fmt: skip


def healthy(address: str, ca: Path) -> bool:
    """Whether a SuperLink answers at HOST:PORT, past any proxy, under a certificate that ``ca`` signed."""
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ca)))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), secure)
    try:
        with direct.open(f"https://{address}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def unreachable(address: str, ca: Path) -> str:
    """Return why no TLS connection to HOST:PORT comes about under ``ca``, and the cure; empty where one does."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        context = ssl.create_default_context(cafile=str(ca))
        with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain, server_hostname=host):
            return ""
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in OTHER_HOST:
            return f"the certificate of {address} does not name {host}; make one that does: mpssl-fed certs server KEYS {host}"
        if error.verify_code in OTHER_TIME:
            return (
                f"the certificate of {address}, or {ca}, is not of this time ({error.verify_message}); set the clocks of "
                "this machine and of the one that made it right, or renew it: mpssl-fed certs server"
            )
        return (
            f"the certificate of {address} is not trusted under {ca} ({error.verify_message}); "
            "take the ca.crt of the machine that made the SuperLink's keys"
        )
    except ssl.SSLError as error:
        return f"{address} or {ca} does not speak TLS as a SuperLink does ({error.reason or error})"
    except OSError as error:
        return f"no connection to {address} ({error.strerror or error}); is the SuperLink up, and the port open?"


class FlowerCommand:
    """``flwr`` against one SuperLink. ``run`` starts a process; ``home`` keeps Flower's files."""

    def __init__(self, address: str, ca: Path, home: Path, run: Runner | None = None) -> None:
        self._run, self.home, self.address, self.ca = run or _run, home, address, ca
        config = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{address}"\n'
        write_atomic(home / "config.toml", f'{config}root-certificates = "{ca.resolve()}"\n')

    def register(self, public_key: Path, name: str) -> None:
        """Let the holder of a key join as ``name``; UserError when the key is registered already."""
        self._flwr(["supernode", "register", str(public_key), CONNECTION, "--name", name], f"site {name} was not registered")

    def submit(self, bundle: Path) -> str:
        """Start the run of a bundle and return Flower's run id."""
        return str(self._flwr(["run", str(bundle), CONNECTION], "the run was not started")["run-id"])

    def status(self, run_id: str) -> tuple[str, str]:
        """Return a run's status and, where it failed, Flower's reason.

        Status: pending, starting, running, finished:completed, finished:failed or finished:stopped.
        """
        listed = self._flwr(["list", CONNECTION, "--run-id", run_id], f"run {run_id} is not known")
        run = listed["runs"][0]
        return str(run["status"]), str(run.get("status-details") or "")

    def stop(self, run_id: str) -> None:
        """Stop a run."""
        self._flwr(["stop", run_id, CONNECTION], f"run {run_id} was not stopped")

    def _flwr(self, words: Sequence[str], failure: str) -> Any:
        try:
            done = self._run([tool("flwr"), *words, "--format", "json"], environment.of_flower(self.home, self.address))
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{failure}: no answer within {error.timeout:g} s; is the SuperLink up?") from error
        try:
            answer = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            answer = {}
        if done.returncode or not answer.get("success"):
            theirs = answer.get("error-message") or (done.stderr or done.stdout).strip()[-600:]
            here = self._run is _run  # what is run elsewhere stands before another network
            raise UserError(f"{failure}: {(here and unreachable(self.address, self.ca)) or theirs}")
        return answer


def write_bundle(folder: Path, config: Config) -> Path:
    """Write what Flower ships to the nodes: the two apps, one resolved config and their pyproject; no library code."""
    from mpssl_fed.runs.manifest import versions

    for package in ("clients", "server"):
        shutil.copytree(app_folder() / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    ours = tomllib.loads((app_folder() / "pyproject.toml").read_text(encoding="utf-8"))
    flower = next(one for one in ours["project"]["dependencies"] if one.startswith("flwr"))
    target = ours["tool"]["flwr"]["app"]["flwr-version-target"]
    text = PYPROJECT.format(version=versions().get("mpssl-fed", "0.1.0"), flower=flower, target=target)
    write_atomic(folder / "pyproject.toml", text)
    write_atomic(folder / "LICENSE", (app_folder() / "LICENSE").read_bytes())
    write_atomic(folder / "configs" / "run.yaml", config.to_yaml())
    return folder


def tool(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def _run(command: Sequence[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **env}
    )
