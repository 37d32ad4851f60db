"""Three machines as network namespaces with their own addresses, set up by the commands of docs/deploy.md, nginx in front."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from mpssl_fed.federation import environment
from mpssl_fed.federation.processes import Children, marked
from mpssl_fed.federation.run_directory import read_history, read_manifest
from tests.real.sites import QUIET, TINY, RealSite, tiny, wait_for

HOUSE = Path(__file__).parents[2]
SERVER, FRONT = "10.77.0.1", "10.77.0.1:9092"
SITES = tiny("federation.sites=2")
CONFIG = TINY | {
    "data": {"name": "none", "task": SITES.dump()["data"]["task"]},  # a server that holds no image at all
    "federation": TINY["federation"] | {"rounds": 1, "min_sites": 2},
}
TOOLS = ("ip", "nginx", "curl")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin") is None for tool in TOOLS),
    reason="needs root, iproute2 and nginx",
)


def ip(*words: str) -> None:
    """Run ``ip``; the test is skipped where the machine does not permit namespaces."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


def machine(name: str) -> list[str]:
    """Return what a command is prefixed with to run on a machine."""
    return ["ip", "netns", "exec", name]


def mpssl(*words: str) -> list[str]:
    """Return the command line of this installation."""
    return [sys.executable, "-m", "mpssl_fed.cli", *words]


class Network:
    """A bridge with the machines server, a and b on it."""

    def __init__(self) -> None:
        self.tag = f"mf{os.getpid() % 10000}"
        self.names = [f"{self.tag}{name}" for name in ("s", "a", "b")]
        ip("link", "add", self.tag, "type", "bridge")
        ip("link", "set", self.tag, "up")
        for number, name in enumerate(self.names, start=1):
            ip("netns", "add", name)
            ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}v", "master", self.tag, "up")
            for words in (
                ("addr", "add", f"10.77.0.{number}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                ip("-n", name, *words)

    def close(self) -> None:
        """Take everything down."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", self.tag], check=False)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    net = Network()
    yield net
    net.close()


class Federation:
    """What three operators did; ``children`` are their processes."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network, self.keys = folder, network, folder / "keys"
        self.children = Children(folder / "tmp")
        self.sites = [RealSite(folder / f"site-{number}", SITES, number) for number in (0, 1)]

    def on(self, name: str, command: Sequence[str], timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine to its end."""
        return self.children.run([*machine(name), *command], environment.of_flower(self.folder / "flower"), timeout)

    def operator(self, *words: str) -> str:
        """Run a command of ours on the server's machine and return its output; it must succeed."""
        done = self.on(self.network.names[0], mpssl(*words))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Everything up to the first submission."""
        server, *others = self.network.names
        self.operator("certs", "ca", str(self.keys))
        self.operator("certs", "server", str(self.keys), "localhost", "127.0.0.1", SERVER)
        link = mpssl("server", "--keys", str(self.keys), "--database", str(self.folder / "link.db"))
        self.children.start("superlink", [*machine(server), *link], QUIET)
        front = (HOUSE / "deploy" / "nginx.conf").read_text(encoding="utf-8")
        places = {
            "/etc/mpssl-fed/keys": self.keys,
            "/var/lib/mpssl-fed-nginx": self.folder / "nginx",
            "/run/": f"{self.folder}/",
            "/var/log/": f"{self.folder}/",
        }
        for old, new in places.items():
            front = front.replace(old, str(new))
        (self.folder / "nginx").mkdir()
        (self.folder / "nginx.conf").write_text(f"user root;\n{front}", encoding="utf-8")
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        self.children.start("nginx", [*machine(server), nginx, "-c", str(self.folder / "nginx.conf"), "-g", "daemon off;"])
        for site in self.sites:
            site.start("--trust-bundles", wait=False)
        for number in (0, 1):
            self.operator("certs", "site", str(self.folder / "made"), "--name", f"site-{number}")
        wait_for(
            lambda: (
                self.on(server, ["curl", "-sf", "--cacert", str(self.keys / "ca.crt"), "https://localhost:8000/health"]).returncode
                == 0
            ),
            60,
            "the SuperLink",
        )
        for number, (name, site) in enumerate(zip(others, self.sites, strict=True)):
            key = self.folder / "made" / f"site-{number}.pub"
            self.operator("register", str(key), "--ca", str(self.keys / "ca.crt"))
            node = mpssl(
                "site",
                "node",
                "--server",
                FRONT,
                "--ca",
                str(self.keys / "ca.crt"),
                "--key",
                str(key.with_suffix(".key")),
                "--socket",
                str(site.socket),
            )
            self.children.start(f"node-{number}", [*machine(name), *node], QUIET)


@pytest.fixture(scope="module")
def federation(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    up = Federation(tmp_path_factory.mktemp("machines"), network)
    try:
        up.start()
        yield up
    finally:
        for site in up.sites:
            site.stop()
        up.children.stop()
        assert not marked(up.children.token)


def test_two_sites_train_through_the_front(federation: Federation) -> None:
    config, run = federation.folder / "config.yaml", federation.folder / "run"
    config.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    words = ("submit", str(config), "--ca", str(federation.keys / "ca.crt"), "--output", str(run))
    assert "finished" in federation.operator(*words)
    assert read_manifest(run)["status"] == "finished"
    assert read_history(run)[1]["sites_answered"] == 2
    assert read_history(run)[1]["test_accuracy"] is None
    assert (run / "model.safetensors").is_file()


@pytest.mark.parametrize("what", ["register", "submit"])
def test_control_is_refused_from_another_machine(federation: Federation, what: str) -> None:
    """The front passes the fleet's paths alone: who may join may not give orders."""
    ca = ("--ca", str(federation.keys / "ca.crt"), "--server", FRONT)
    if what == "register":
        federation.operator("certs", "site", str(federation.folder / "made"), "--name", "intruder")
        command = mpssl("register", str(federation.folder / "made" / "intruder.pub"), *ca)
    else:
        command = mpssl("submit", "demo", *ca, "--output", str(federation.folder / "stolen"))
    done = federation.on(federation.network.names[1], command)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not (federation.folder / "stolen").exists()


def test_the_superlink_itself_is_out_of_reach(federation: Federation) -> None:
    done = federation.on(federation.network.names[1], ["curl", "-sk", "--max-time", "5", f"https://{SERVER}:8000/health"])
    assert done.returncode != 0
    front = ["curl", "-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}"]
    for path in ("/health", "/v1/control/start-run", "/v1/fleet/../control/list-runs", "/v1/runtime/x", "/"):
        assert federation.on(federation.network.names[1], [*front, "--path-as-is", f"https://{FRONT}{path}"]).stdout == "403", path
