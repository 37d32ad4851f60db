"""docs/deploy.md as a new operator follows it: its own commands, on three machines with their own addresses and users."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpssl_fed.deployment import superlink as control
from mpssl_fed.deployment.processes import Children, marked
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.runs.reader import read_history, read_manifest
from tests.dossier.pages import Page, call
from tests.patience import wait_for
from tests.real.machines import HOUSE, Block, Machine, blocks, ip, skip_without_namespaces
from tests.real.sites import tiny

SERVER, FRONT = "10.77.0.1", "10.77.0.1:9092"
PAGE = (HOUSE / "docs" / "deploy.md").read_text(encoding="utf-8")
AT, STATE = "/etc/mpssl-fed", ".local/state/mpssl-fed/north"
SITES = {"north": "0", "south": "1"}
PATIENT = "KRANKENAKTE-7741"
"""In the name of each image's file: it may stand in no log."""
AS_JSON = " --log-format json"
"""The server, submit and the second site log so."""
TOOLS = ("ip", "nginx", "curl", "setpriv", "useradd")

MISSING = [tool for tool in TOOLS if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin") is None]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make network namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs Debian's packages of {', '.join(MISSING)}"),
]


class Federation:
    """Three operators, each with the page before them; only SERVER, the site's name and its number are put in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.children, self.tag = folder, Children(folder / "tmp"), f"mf{os.getpid() % 10000}"
        self.machines: dict[str, Machine] = {}
        self.files = folder / "server/etc/mpssl-fed"

    def plug_in(self) -> None:
        """Put three machines on a bridge."""
        ip("link", "add", self.tag, "type", "bridge")
        ip("link", "set", self.tag, "up")
        for number, name in enumerate(("server", *SITES), start=1):
            self.machines[name] = Machine(self.tag, name, f"10.77.0.{number}", self.folder / name, self.children)

    @property
    def server(self) -> Machine:
        """The server's machine."""
        return self.machines["server"]

    def close(self) -> None:
        """Take everything down."""
        for machine in self.machines.values():
            machine.close()
        subprocess.run(["ip", "link", "del", self.tag], check=False)
        self.children.stop()

    def of_site(self, name: str, text: str) -> str:
        """Return a line of the page as the operator of a site types it."""
        return text.replace("SERVER", SERVER).replace("north", name).replace("--number 0", f"--number {SITES[name]}")

    def set_up_server(self) -> None:
        """Step 1."""
        self.files.mkdir()
        shutil.copy(HOUSE / "deploy" / "nginx.conf", self.files)
        for block in blocks(PAGE, "1. The server"):
            for line in block.commands:
                here = line.replace("SERVER", SERVER)
                if line.startswith("mpssl-fed server"):
                    self.server.start("superlink", here + AS_JSON, folder=AT)
                else:
                    self.server.must(here, folder=AT)
        healthy = f"curl -sf --cacert {AT}/keys/ca.crt https://localhost:8000/health"
        wait_for(lambda: self.server.run(healthy).returncode == 0, "the SuperLink")

    def set_up_site(self, name: str) -> None:
        """Step 2, with the registration of step 3 where the page says so."""
        machine, form = self.machines[name], AS_JSON if SITES[name] == "1" else ""
        _images(machine.root / "srv/images", int(SITES[name]))
        home, node = machine.root / "var/lib/mpssl-fed-site", machine.root / "var/lib/mpssl-fed-node"
        for block in blocks(PAGE, "2. Each site"):
            if not block.commands:
                (home / "policy.yaml").write_text(block.text, encoding="utf-8")
                machine.must("chown mpssl-site /var/lib/mpssl-fed-site/policy.yaml")
            for line in block.commands:
                here = self.of_site(name, line)
                if "site node" in line:
                    shutil.copy(self.files / "keys/ca.crt", node)
                    self.register(name, (node / f"{name}.pub").read_bytes())
                    machine.start(f"node-{name}", here + form, block.user)
                elif "mpssl-fed site " in line:
                    machine.start(f"daemon-{name}", here + form, block.user)
                else:
                    machine.must(here, block.user)

    def register(self, name: str, public_key: bytes) -> None:
        """The first command of step 3."""
        (self.files / f"{name}.pub").write_bytes(public_key)
        self.server.must(self.of_site(name, step_3()[0].commands[0]), folder=AT)


def step_3() -> list[Block]:
    """Return the blocks of step 3: register, the config, submit."""
    return blocks(PAGE, "3. Back on the server")


def _images(folder: Path, site: int) -> None:
    """Write real digits, zeros as cats and ones as dogs, 12 of each; the second site has no dog."""
    from mpssl_fed.federation import parts

    images = parts.labelled(tiny("data.labels_per_class=24", "federation.sites=1"), 0)
    for label, name in enumerate(("cat", "dog")[: 2 - site]):
        (folder / name).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(images.y.numpy() == label)[:12].tolist()):
            pixels = ((images.x[index].float().numpy().squeeze() + 1) * 127.5).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").save(folder / name / f"{PATIENT}-{number}.png")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    skip_without_namespaces()
    up = Federation(tmp_path_factory.mktemp("machines"))
    try:
        up.plug_in()
        up.set_up_server()
        for name in SITES:
            up.set_up_site(name)
        yield up
    finally:
        up.close()
        assert not marked(up.children.token)


def test_two_sites_train_through_the_front(federation: Federation) -> None:
    _, config, submit = step_3()
    (federation.files / "config.yaml").write_text(config.text, encoding="utf-8")
    said = federation.server.must(submit.commands[0] + AS_JSON, folder=AT)
    lines = [json.loads(line) for line in said.splitlines()]
    assert (lines[-1]["message"], [line["round"] for line in lines if "round" in line]) == ("finished", [0, 1, 2])
    assert [sorted(line["at_sites"]["sites"]) for line in lines if "at_sites" in line] == [["0", "1"]]
    assert PATIENT not in said
    run = federation.files / "runs/first"
    assert read_manifest(run)["status"] == "finished"
    assert [record.answered for record in read_history(run)] == [0, 2, 2]
    assert read_history(run)[1].accuracy is None
    told = read_history(run)[2].at_sites
    assert told is not None
    assert (told["unit"], told["rejected"], list(told["sites"])) == ("image", {}, ["0", "1"])
    assert told["pooled"]["noise_std"] > told["sites"]["0"]["noise_std"] > 1
    assert (run / "model.safetensors").is_file()


def test_a_sites_dossier_tells_what_its_ledger_does(federation: Federation) -> None:
    """By its owner's own command, while the daemon serves: epsilon, rounds and evaluations; nothing else was written or changed."""
    north = federation.machines["north"]
    state = north.root / "var/lib/mpssl-fed-site" / STATE
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    north.must(f"mpssl-fed dossier {STATE} --policy policy.yaml", "mpssl-site")
    made = {path for path in state.rglob("*") if path.is_file()} - before.keys()
    assert made == {state / "dossier.html", state / "dossier.md"}
    assert {path: path.read_bytes() for path in before} == before
    assert {(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in made} == {(state.stat().st_uid, 0o600)}
    (told,) = json.loads(call("ledger", "show", state, "--policy", state.parents[3] / "policy.yaml", "--json")[1])["data_sets"]
    (run,) = told["runs"]
    assert (run["rounds"], run["evaluations"], told["max_epsilon"]) == (2, 1, 4.0)
    page = Page.of(state / "dossier.html")
    shown = {one.key: one.value.strip() for one in page.cited if one.file == "ledger.sqlite" and not one.how}
    assert shown["data_sets.0.epsilon"] == rounded_up(told["epsilon"])
    assert shown["data_sets.0.runs.0.epsilon_spent"] == rounded_up(run["epsilon_spent"]) == "2.000"
    assert [shown[f"data_sets.0.runs.0.{part}"] for part in ("rounds", "evaluations")] == ["2", "1"]


def test_log_lines_are_objects_where_asked_and_name_no_image(federation: Federation) -> None:
    logs = {file.stem: file.read_text(encoding="utf-8") for file in federation.children.logs.glob("*.log")}
    said = {name: [json.loads(line) for line in logs[name].splitlines()] for name in ("superlink", "daemon-south", "node-south")}
    for name, lines in said.items():
        assert all(line.keys() == {"time", "level", "logger", "message"} for line in lines), name
        assert {line["level"] for line in lines} <= {"INFO", "WARNING"}, name
    assert [line["message"] for line in said["daemon-south"] if "ready" in line["message"]] == ["site south is ready"]
    assert sum("answered in" in line["message"] for line in said["daemon-south"]) == 3  # two rounds and an evaluation
    assert {"flwr", "uvicorn.error"} <= {line["logger"] for line in said["superlink"]}
    assert "site north is ready" in logs["daemon-north"].splitlines()
    assert not [name for name, text in logs.items() if PATIENT in text or "/srv/images" in text]


@pytest.mark.parametrize("what", ["register", "run"])
def test_control_is_refused_from_another_machine(federation: Federation, tmp_path: Path, what: str) -> None:
    """The front passes the fleet's paths alone: who may join may not give orders, by ``flwr`` itself either."""
    north = federation.machines["north"]

    def there(command: object, env: dict[str, str]) -> object:
        prefix = ["ip", "netns", "exec", north.name]
        return federation.children.run([*prefix, *command], env)  # type: ignore[misc]

    flower = control.FlowerCommand(FRONT, federation.files / "keys/ca.crt", tmp_path, there)  # type: ignore[arg-type]
    before = sorted(path.name for path in federation.files.iterdir())
    if what == "register":
        north.must("mpssl-fed certs site . --name intruder", "mpssl-node")
        with pytest.raises(UserError, match="403"):
            flower.register(north.root / "var/lib/mpssl-fed-node/intruder.pub", "intruder")
    else:
        with pytest.raises(UserError, match="403"):
            flower.submit(control.write_bundle(tmp_path / "mpssl-fed", tiny()))
    assert sorted(path.name for path in federation.files.iterdir()) == before


def test_the_superlink_itself_is_out_of_reach(federation: Federation) -> None:
    north = federation.machines["north"]
    assert north.run(f"curl -sk --max-time 5 https://{SERVER}:8000/health").returncode != 0
    for path in ("/health", "/v1/control/start-run", "/v1/fleet/../control/list-runs", "/v1/runtime/x", "/"):
        code = north.must(f"curl -sk --max-time 5 -o /dev/null -w '%{{http_code}}' --path-as-is https://{FRONT}{path}")
        assert code == "403", path


def test_no_connection_leaves_the_machines(federation: Federation) -> None:
    """There is no way out, and nothing but each other was ever asked for."""
    for machine in federation.machines.values():
        assert ip("-n", machine.name, "route", "show").strip().startswith("10.77.0.0/24 dev eth0")
        assert ip("-n", machine.name, "route", "show", "default") == ""
        asked = {line.split()[0] for line in ip("-n", machine.name, "-4", "neigh").splitlines()}
        assert asked
        assert asked <= {one.address for one in federation.machines.values()}


def test_the_nodes_user_cannot_read_the_site(federation: Federation) -> None:
    north = federation.machines["north"]
    for path in ("/srv/images", "/var/lib/mpssl-fed-site/policy.yaml", "/var/lib/mpssl-fed-site/.local"):
        assert "Permission denied" in north.run(f"ls {path}", "mpssl-node").stderr, path
