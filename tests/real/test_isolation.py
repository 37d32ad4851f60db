"""What another system user, such as one that runs a hostile app bundle, can do to a site: nothing. Needs root for a second user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.deployment.daemon import MOST_CALLERS
from mpssl_fed.deployment.isolation import User, exposed
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.start_site import SiteSettings, check_site
from mpssl_fed.errors import UserError
from tests.patience import PATIENCE_S
from tests.real.sites import NOBODY, RealSite, message, open_folder, tiny, weights

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of a second user")
CONFIG = tiny()

HOSTILE = """
import ctypes, http.client, json, os, select, socket, sys, time
socket_path, private, listing, policy, state, pid, body = sys.argv[1:]
done = {}
def attempt(name, work):
    try:
        work()
        done[name] = "succeeded"
    except OSError as error:
        done[name] = type(error).__name__
def call(method, target, data=None):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(socket_path)
    connection.request(method, target, data)
    answer = connection.getresponse()
    return [answer.status, answer.read(4096).decode("latin-1")]
attempt("list the folder", lambda: os.listdir(private))
attempt("read an image", lambda: open(os.path.join(os.path.dirname(listing), "000000.png"), "rb").read())
attempt("read the list", lambda: open(listing).read())
attempt("read the policy", lambda: open(policy).read())
attempt("rewrite the policy", lambda: open(policy, "w").write("max_epsilon: 1000"))
attempt("move the folder away", lambda: os.rename(private, private + "-gone"))
attempt("replace the policy", lambda: os.rename("/tmp", policy))
attempt("list the state", lambda: os.listdir(state))
attempt("replace the socket", lambda: os.unlink(socket_path))
attempt("read the memory", lambda: open(f"/proc/{pid}/mem", "rb").read(1))
attempt("read the environment", lambda: open(f"/proc/{pid}/environ", "rb").read())
attempt("open its files", lambda: os.listdir(f"/proc/{pid}/fd"))
def trace():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, int(pid), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
attempt("trace the daemon", trace)
attempt("kill the daemon", lambda: os.kill(int(pid), 9))
done["card"] = call("GET", "/v1/card")
done["status"] = call("GET", "/v1/status")
done["raw images"] = call("GET", "/v1/images")
done["a file"] = call("GET", listing)
done["larger epsilon"] = call("POST", "/v1/train", open(body, "rb").read())
done["too large"] = call("POST", "/v1/train", bytes(130_000_000))
held = [socket.socket(socket.AF_UNIX) for _ in range(20)]
for one in held:
    one.connect(socket_path)
    try:
        one.sendall(b"POST /v1/train HTTP/1.1\\r\\nContent-Length: 9\\r\\n\\r\\n")
    except OSError:
        pass  # cut off before a word; it counts below
ends = time.monotonic() + 600
while len(select.select(held, [], [], 0)[0]) < 12 and time.monotonic() < ends:
    time.sleep(0.1)
done["cut off"] = len(select.select(held, [], [], 0.3)[0])
print(json.dumps(done), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def site() -> Iterator[RealSite]:
    with open_folder() as folder:
        real = RealSite(folder, CONFIG)
        real.start()
        yield real
        real.stop()


def test_hostile_bundle_under_its_own_user_gets_nothing(site: RealSite) -> None:
    asked = tiny("privacy={epsilon: 50, public_size: 100}")
    body = site.run / "request"
    body.write_bytes(message(asked, weights(CONFIG)))
    body.chmod(0o644)
    assert site.process is not None
    paths = (site.socket, site.private, site.listing, site.policy_file, site.state, site.process.pid, body)
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "/usr/bin/env", "-i"]
    hostile = subprocess.Popen(
        [*command, _plain_python(), "-S", "-c", HOSTILE, *map(str, paths)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert hostile.stdout is not None
    line = hostile.stdout.readline()
    assert site.up()  # the owner is answered while the other user holds all the connections that it is given
    _, error = hostile.communicate(timeout=PATIENCE_S)
    assert hostile.returncode == 0, error
    found = json.loads(line)
    keys = ("card", "status", "raw images", "a file", "larger epsilon", "too large", "cut off")
    answers = {key: found.pop(key) for key in keys}
    assert len(found) == 14
    assert set(found.values()) <= {"PermissionError"}, found
    assert answers["card"] == [200, '{"site": 0}']  # the one thing that the SuperNode's user may ask without a request to train
    assert answers["status"] == [403, '{"code": "policy"}']
    assert answers["raw images"] == answers["a file"] == [404, '{"code": "malformed"}']
    assert answers["larger epsilon"] == [409, '{"code": "epsilon"}']
    assert answers["too large"] == [409, '{"code": "model-size"}']
    assert 20 - MOST_CALLERS <= answers["cut off"] < 20
    assert site.up()


def test_third_users_are_not_even_heard(site: RealSite) -> None:
    """Another member of the socket's group than the SuperNode's user."""
    ask = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
    ask += "s.sendall(b'GET /v1/card HTTP/1.1\\r\\n\\r\\n'); print(s.recv(200).split()[1].decode())"
    other = ["setpriv", "--reuid=65533", f"--regid={NOBODY}", "--clear-groups"]
    command = [*other, _plain_python(), "-S", "-c", ask, str(site.socket)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "403"


def test_third_users_use_up_no_place(site: RealSite) -> None:
    """While one holds more connections than there are places, the SuperNode's user is answered."""
    hold = (
        "import select, socket, sys\n"
        "held = [socket.socket(socket.AF_UNIX) for _ in range(60)]\n"
        "for one in held:\n"
        "    one.connect(sys.argv[1])\n"
        "answers = {one.recv(300).split()[1] for one in held}\n"
        "print(len(held), *answers, flush=True); sys.stdin.read()\n"
    )
    ask = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
    ask += "s.sendall(b'GET /v1/card HTTP/1.1\\r\\n\\r\\n'); print(s.recv(200).split()[1].decode())"
    third, node = (
        ["setpriv", f"--reuid={uid}", f"--regid={NOBODY}", "--clear-groups", _plain_python(), "-S", "-c"] for uid in (65533, NOBODY)
    )
    with subprocess.Popen([*third, hold, str(site.socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline().split() == ["60", "b'403'"]  # all of them are answered, and none is served
        done = subprocess.run([*node, ask, str(site.socket)], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        assert done.stdout.strip() == "200"
        assert site.status()["turned_away"] >= 60
        crowd.communicate("")


def test_readable_files_stop_the_start(open_path: Path) -> None:
    user = User.named(str(NOBODY))
    folder, image = open_path / "images", open_path / "images" / "a.png"
    folder.mkdir(mode=0o700)
    image.touch(mode=0o644)
    assert exposed(user, [folder, image]) is None
    folder.chmod(0o711)  # may be entered: the image can be read by whoever knows its name
    assert exposed(user, [image]) == image
    image.chmod(0o600)
    assert exposed(user, [image]) is None
    image.chmod(0o620)
    os.chown(image, 0, NOBODY)
    assert exposed(user, [image]) == image  # who may write it may replace it
    os.chown(image, NOBODY, 0)
    image.chmod(0o000)
    assert exposed(user, [image]) == image  # an owner can open it up
    folder.chmod(0o700)
    assert exposed(user, [image]) is None
    shared = open_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    (shared / "policy.yaml").touch(mode=0o600)
    assert exposed(user, [shared / "policy.yaml"]) == shared  # unreadable, but another file may be put in its place
    shared.chmod(0o1777)
    assert exposed(user, [shared / "policy.yaml"]) is None
    (open_path / "seen.png").touch(mode=0o644)
    (folder / "b.png").symlink_to(open_path / "seen.png")
    assert exposed(user, [image, folder / "b.png"]) == open_path / "seen.png"  # a link in a closed folder closes nothing
    with pytest.raises(UserError, match="no such user"):
        User.named("no-such-user-here")


def test_every_file_that_a_list_names_is_private(tmp_path: Path) -> None:
    """Whatever the order of the columns and however a name is quoted."""
    (tmp_path / "list.csv").write_text('label,path\ncat,"a,1.png"\ndog,b.png\n', encoding="utf-8")
    found = OwnData(tmp_path / "list.csv", ("cat", "dog")).files()
    assert found == [tmp_path / name for name in ("list.csv", "a,1.png", "b.png")]


def test_daemon_refuses_to_start_where_bundles_could_read(open_path: Path) -> None:
    """Same user: refused; said aloud with --trust-bundles (every deployment on one machine does)."""
    site = RealSite(open_path / "site", CONFIG)
    assert CONFIG.data.task is not None
    same = SiteSettings("site-0", 0, site.listing, CONFIG.data.task.classes, site.policy_file, site.state, site.socket, channels=1)
    with pytest.raises(UserError, match="trust-bundles"):
        check_site(same)
    (open_path / "open").mkdir(mode=0o755)
    exposed_policy = open_path / "open" / "policy.yaml"
    exposed_policy.write_bytes(site.policy_file.read_bytes())
    exposed_policy.chmod(0o644)
    other = SiteSettings(
        "site-0", 0, site.listing, CONFIG.data.task.classes, exposed_policy, site.state, site.socket, str(NOBODY), channels=1
    )
    with pytest.raises(UserError, match=r"can read .*policy\.yaml"):
        check_site(other)


def _plain_python() -> str:
    """Return the interpreter, at a place that other users can reach; the one of a private home folder cannot be run by them."""
    for candidate in (Path(sys.executable).resolve(), Path("/usr/bin/python3"), Path("/usr/local/bin/python3")):
        if candidate.exists() and User.named(str(NOBODY)).can_read(candidate):
            return str(candidate)
    pytest.skip("no Python that a second user could run")
