"""What `deploy/` holds is sound: units, front and containers pass their linters, and each command in them is one of ours."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from mpssl_fed import cli
from mpssl_fed.deployment import certs

HOUSE = Path(__file__).parents[1]
DEPLOY = HOUSE / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/mpssl-fed/bin/mpssl-fed"
COMPOSE = yaml.safe_load((DEPLOY / "containers" / "site.yaml").read_text(encoding="utf-8"))["services"]


PACKAGES = {"nginx": "nginx-light", "systemd-analyze": "systemd"}


def tool(name: str) -> str:
    """Return the path of a linter; the test is skipped where the system has none."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        pytest.skip(f"needs Debian's package {PACKAGES.get(name, name)}")
    return found


def check_command(words: list[str]) -> None:
    """Assert that ``words`` name a command of ours and options that it has, with all that it requires."""
    context = typer.main.get_command(cli.build()).make_context("mpssl-fed", list(words), resilient_parsing=True)
    command = context.command
    while words and hasattr(command, "commands"):
        command, *words = command.commands[words[0]], *words[1:]
    options = {name: param for param in command.params for name in param.opts}
    given = {word for word in words if word.startswith("--")}
    assert given <= set(options), given - set(options)
    required = {param.opts[0] for param in command.params if param.required and param.opts[0].startswith("--")}
    assert required - given <= {"--data", "--classes"}, (required, given)  # these two come in with $SITE_OPTIONS


def test_units_pass_systemd(tmp_path: Path) -> None:
    systemd = tool("systemd-analyze")
    ours = Path(sys.executable).with_name("mpssl-fed")
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace(PROGRAM, str(ours))
        front = shutil.which("nginx", path="/usr/sbin") is None
        (tmp_path / unit.name).write_text(text.replace("/usr/sbin/nginx", "/bin/true") if front else text, encoding="utf-8")
    done = subprocess.run([systemd, "verify", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=False)
    ours_said = [line for line in (done.stdout + done.stderr).splitlines() if "mpssl-fed" in line]
    assert ours_said == []


def test_units_start_commands_that_exist() -> None:
    assert len(UNITS) == 4
    started = [match[1] for unit in UNITS if (match := re.search(rf"^ExecStart={PROGRAM} (.*)$", unit.read_text(), re.M))]
    assert len(started) == 3
    for line in started:
        check_command([word for word in shlex.split(line) if not word.startswith("$SITE_OPTIONS")])


def test_units_run_as_users_without_rights() -> None:
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        assert "NoNewPrivileges=yes" in text
        assert "Restart=always" in text
        if "front" not in unit.name:
            assert re.search(r"^User=mpssl-(server|site|node)$", text, re.M)
            assert "StateDirectoryMode=0700" in text
    site = (DEPLOY / "systemd" / "mpssl-fed-site.service").read_text(encoding="utf-8")
    assert "Type=notify\nWatchdogSec=" in site
    assert "PrivateNetwork=yes" in site  # the daemon has no network to send anything by


def test_front_passes_nginx(tmp_path: Path) -> None:
    nginx = tool("nginx")
    certs.make_ca(tmp_path)
    certs.make_server_certificate(tmp_path, ("localhost",))
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    places = {
        "/etc/mpssl-fed/keys": tmp_path,
        "/var/lib/mpssl-fed-nginx": tmp_path,
        "/run/": f"{tmp_path}/",
        "/var/log/": f"{tmp_path}/",
    }
    for old, new in places.items():
        assert old in text
        text = text.replace(old, str(new))
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    done = subprocess.run([nginx, "-t", "-q", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_front_passes_the_fleet_alone() -> None:
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    assert re.findall(r"location (\S+)", text) == ["/v1/fleet/", "/"]
    assert re.search(r"location / \{\s*return 403;", text)
    assert "proxy_ssl_verify on" in text


def test_image_is_built_from_what_is_there_and_not_run_as_root() -> None:
    lines = (DEPLOY / "containers" / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [(word, rest) for line in lines if line and not line.startswith("#") for word, _, rest in [line.partition(" ")]]
    kinds = [word for word, _ in steps]
    assert set(kinds) <= {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}
    assert re.fullmatch(r"python:\d+\.\d+-slim-\w+", steps[0][1])  # a version, not `latest`
    for kind, rest in steps:
        if kind == "COPY":
            assert all((HOUSE / source).exists() for source in rest.split()[:-1]), rest
        if kind == "RUN":
            assert "apt-get" not in rest
            assert "sudo" not in rest
        if kind in ("ENTRYPOINT", "CMD"):
            assert rest.startswith("[")  # signals reach the program, not a shell
    taken = {source for kind, rest in steps if kind == "COPY" for source in rest.split()[:-1]}
    built = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*built["packages"], *built["force-include"]} <= taken  # else the wheel is not built there
    indices = re.findall(r"https://\S+", " ".join(rest for kind, rest in steps if kind == "RUN"))
    assert indices == []  # uv knows where torch without CUDA is
    users = [rest for kind, rest in steps if kind == "USER"]
    assert users
    assert users[-1] in ("mpssl-server", "2003")


@pytest.mark.parametrize("name", sorted(COMPOSE))
def test_containers_are_closed(name: str) -> None:
    service = COMPOSE[name]
    check_command(shlex.split(service["command"]))
    if "healthcheck" in service:
        check_command(service["healthcheck"]["test"][2:])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    users = {other: COMPOSE[other]["user"].split(":")[0] for other in COMPOSE}
    assert len(set(users.values())) == len(users)
    assert "0" not in users.values()
    text = (DEPLOY / "containers" / "Containerfile").read_text(encoding="utf-8")
    assert f"--uid {users[name]} " in text
    private = {volume.split(":")[0] for volume in COMPOSE["daemon"]["volumes"]}
    shared = private & {volume.split(":")[0] for volume in COMPOSE["node"]["volumes"]}
    assert shared == {"socket"}
    assert COMPOSE["daemon"]["network_mode"] == "none"
