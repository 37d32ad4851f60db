"""Machines for the tests: network namespaces with their own address, /etc, /run, /srv and /var/lib, so their own users, too."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpssl_fed.deployment.processes import MARK, Children
from tests.real.sites import QUIET

HOUSE = Path(__file__).parents[2]
OWN = ("etc", "run", "srv", "var/lib", "var/log")
COMMANDS = ("mpssl-fed", "nginx", "useradd", "groupadd", "install", "chmod")
USER = re.compile(r"As `?([a-z-]+)`?[,:]")


@dataclass(frozen=True)
class Block:
    """An indented block of a page: whose it is, and its commands; or its text, where it is a file."""

    user: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The command lines, whole; empty for a file."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return lines if lines[0].split()[0] in COMMANDS else []


def blocks(page: str, heading: str) -> list[Block]:
    """Return the indented blocks under ``## heading``; ``As `user`:`` in the text before says who runs them from there on."""
    section = page.split(f"\n## {heading}")[1].split("\n## ", maxsplit=1)[0]
    found, user = list[Block](), "root"
    for part in re.split(r"\n\s*\n", section):
        if part.lstrip("\n").startswith("    "):
            found.append(Block(user, "\n".join(line[4:] for line in part.strip("\n").splitlines())))
        elif named := USER.findall(part):
            user = named[-1]
    return found


class Machine:
    """One machine on the bridge ``tag``; ``children`` are all its processes."""

    def __init__(self, tag: str, name: str, address: str, root: Path, children: Children) -> None:
        self.name, self.address, self.root, self.children = f"{tag}{name}", address, root, children
        for folder in OWN[1:]:
            (root / folder).mkdir(parents=True)
        shutil.copytree("/etc", root / "etc", symlinks=True, ignore_dangling_symlinks=True, ignore=_only_what_logs_in)
        ip("netns", "add", self.name)
        ip("link", "add", f"{self.name}v", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", f"{self.name}v", "master", tag, "up")
        for words in (
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", self.name, *words)

    def command(self, line: str, user: str = "root", folder: str = "/") -> list[str]:
        """Return ``line`` as ``user`` would type it in ``folder`` of this machine (another user: at home)."""
        own = "".join(f"mount --bind {shlex.quote(str(self.root / one))} /{one}; " for one in OWN)
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(HOUSE), **QUIET}
        environment[MARK] = self.children.token
        words = ["env", *(f"{key}={value}" for key, value in environment.items()), "sh", "-c"]
        if user == "root":
            words += [f"cd {folder} && {line}"]
        else:
            reset = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env"]
            words = [*reset, *words, f"cd && {line}"]
        return ["ip", "netns", "exec", self.name, "sh", "-ec", f'{_open_python()}{own}exec "$@"', "sh", *words]

    def run(self, line: str, user: str = "root", folder: str = "/") -> subprocess.CompletedProcess[str]:
        """Run a command line to its end."""
        return self.children.run(self.command(line, user, folder), {}, 300)

    def must(self, line: str, user: str = "root", folder: str = "/") -> str:
        """Run a command line that has to succeed and return its output."""
        done = self.run(line, user, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, line: str, user: str = "root", folder: str = "/") -> None:
        """Start a command line that goes on."""
        self.children.start(name, self.command(f"exec {line}", user, folder))

    def close(self) -> None:
        """End what still runs here and take the machine away."""
        left = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False).stdout
        for pid in left.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def ip(*words: str) -> str:
    """Run ``ip`` and return its output."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def skip_without_namespaces() -> None:
    """Skip the test where this computer does not permit namespaces."""
    done = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"network and mount namespaces are not permitted here: {done.stderr.strip()}")


def _only_what_logs_in(folder: str, names: list[str]) -> list[str]:
    """Leave the host's secrets and services behind; accounts, libraries and certificates are needed."""
    unwanted = {"systemd", "ssh", "apt", "ssl", "nginx", "init.d", "X11", "fonts", "alternatives", "mpssl-fed"}
    return [name for name in names if name in unwanted] if folder == "/etc" else []


def _open_python() -> str:
    """Return the commands that let other users of a machine reach this Python where it lies in root's home."""
    base = Path(sys.base_prefix)
    closed = next((folder for folder in reversed(base.parents) if not folder.stat().st_mode & 0o001), None)
    if closed is None:
        return ""
    held, inside, top = "/mnt", shlex.quote(str(base)), shlex.quote(str(closed))
    return (
        f"mount -t tmpfs -o mode=755 tmpfs {held}; mkdir {held}/python; mount --bind {inside} {held}/python; "
        f"mount -t tmpfs -o mode=755 tmpfs {top}; mkdir -p {inside}; mount --bind {held}/python {inside}; "
    )
