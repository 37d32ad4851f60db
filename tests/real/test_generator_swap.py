"""A second user of the machine, such as the SuperNode's, and the generator's files: nothing it writes is run by the owner."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.deployment.isolation import User, code_places, replaceable
from mpssl_fed.deployment.start_site import SiteSettings, check_site
from mpssl_fed.errors import UserError
from mpssl_fed.generators.files import sums
from tests.generators.traps import write_blobs, write_trap
from tests.real.sites import NOBODY, POLICY, RealSite, message, tiny, weights

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of a second user"),
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
]
CONFIG = tiny("method={name: naive-gssl, batch: 4}", "generator.name=exported")


def as_nobody(*command: object) -> int:
    """Run a command as that user and return its exit status."""
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *map(str, command)]
    return subprocess.run(words, capture_output=True, check=False).returncode


def rules(generator: Path) -> dict[str, Any]:
    entry = {"name": "exported", "files": sums(generator), "trained_on": "nothing at all"}
    return POLICY | {"methods": ["naive-gssl"], "generators": [entry]}


def test_files_that_a_second_user_swaps_are_not_run(open_path: Path) -> None:
    """In a folder that it may write, accepted by --trust-bundles: between the start of a real daemon and its first round."""
    shared, mine = open_path / "shared", open_path / "trap"
    for folder in (shared, mine):
        folder.mkdir()
        folder.chmod(0o777)
    generator, marker = write_blobs(shared / "blobs.pt"), open_path / "marker"
    trap = write_trap(mine / "trap.pt", marker)
    trap.chmod(0o644)
    site = RealSite(open_path / "site", CONFIG, policy=rules(generator))
    site.start("--trust-bundles", "--generator-path", str(generator))
    try:
        assert as_nobody("cp", trap, shared / "x") == 0
        assert as_nobody("mv", "-f", shared / "x", generator) == 0
        assert site.train(message(CONFIG, weights(CONFIG)))[:2] == (409, "generator")
        assert not marker.exists()
        write_blobs(generator)
        assert site.train(message(CONFIG, weights(CONFIG)))[0] == 200
        assert as_nobody("cp", trap, shared / "x") == 0
        assert as_nobody("mv", "-f", shared / "x", generator) == 0
        assert site.train(message(CONFIG, weights(CONFIG), run="another"))[0] == 200  # from the bytes that were compared
        assert as_nobody("ls", site.state / "cache") != 0
        assert not marker.exists()
    finally:
        site.stop()


@pytest.fixture
def settings(open_path: Path) -> Callable[[Path], SiteSettings]:
    """``settings(generator)`` -> those of a site whose SuperNode runs as a second user."""

    def make(generator: Path) -> SiteSettings:
        site = RealSite(open_path / "site", CONFIG, policy=rules(generator))
        assert CONFIG.data.task is not None
        plain = SiteSettings("site-0", 0, site.listing, CONFIG.data.task.classes, site.policy_file, site.state, site.socket)
        return replace(plain, supernode_user=str(NOBODY), channels=1, generator_path=str(generator))

    return make


def _closed(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return write_blobs(folder / "blobs.pt")


def test_a_closed_folder_is_taken(open_path: Path, settings: Callable[[Path], SiteSettings]) -> None:
    check_site(settings(_closed(open_path / "own")))


@pytest.mark.parametrize("opened", ["folder", "program", "sidecar", "owner", "link", "parent"])
def test_whatever_a_second_user_could_read_or_replace_stops_the_start(
    open_path: Path, settings: Callable[[Path], SiteSettings], opened: str
) -> None:
    generator = _closed(open_path / "own")
    folder, sidecar = generator.parent, generator.with_suffix(".json")
    if opened == "folder":
        folder.chmod(0o777)
    elif opened in ("program", "sidecar"):
        folder.chmod(0o711)
        for file in (generator, sidecar):
            file.chmod(0o600)
        (generator if opened == "program" else sidecar).chmod(0o602)
    elif opened == "owner":
        os.chown(folder, NOBODY, -1)
    elif opened == "link":  # to closed files, from where another link may be put
        (open_path / "open").mkdir()
        (open_path / "open").chmod(0o777)
        for file in (generator, sidecar):
            (open_path / "open" / file.name).symlink_to(file)
        generator = open_path / "open" / generator.name
    else:
        open_path.chmod(0o777)
    with pytest.raises(UserError, match=r"the SuperNode's user \(uid 65534\) can read .* or replace what is in it"):
        check_site(settings(generator))


def test_a_generator_that_is_not_there(open_path: Path, settings: Callable[[Path], SiteSettings]) -> None:
    made = settings(_closed(open_path / "own"))
    with pytest.raises(UserError, match=r"generator .*/none\.pt: no file there"):
        check_site(replace(made, generator_path=str(open_path / "own" / "none.pt")))


def test_code_that_a_second_user_could_change_stops_the_start(
    open_path: Path, settings: Callable[[Path], SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that modules are imported from, for one; reading it is no harm."""
    made = settings(_closed(open_path / "own"))
    modules = open_path / "modules"
    modules.mkdir()
    modules.chmod(0o755)
    monkeypatch.syspath_prepend(str(modules))
    check_site(made)
    modules.chmod(0o775)
    os.chown(modules, 0, NOBODY)
    with pytest.raises(UserError, match=rf"can change {modules}, which this daemon runs"):
        check_site(made)
    check_site(replace(made, trust_bundles=True))


def test_what_may_be_changed_is_found_by_owners_and_modes(open_path: Path) -> None:
    user, tool = User.named(str(NOBODY)), open_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.touch(mode=0o755)
    assert replaceable(user, [tool]) is None
    tool.chmod(0o757)
    assert replaceable(user, [tool]) == tool
    tool.parent.chmod(0o700)  # closed: it is not reached
    assert replaceable(user, [tool]) is None
    tool.parent.chmod(0o755)
    tool.chmod(0o755)
    drop = open_path / "drop"
    drop.mkdir()
    drop.chmod(0o1777)
    (drop / "link").symlink_to(tool)
    assert replaceable(user, [drop / "link"]) is None  # sticky: only its owner moves it
    os.chown(drop / "link", NOBODY, -1, follow_symlinks=False)
    assert replaceable(user, [drop / "link"]) == drop / "link"
    drop.chmod(0o777)
    assert replaceable(user, [drop / "link"]) in (drop, drop / "link")
    assert Path(os.__file__).parent in {place.resolve() for place in code_places()}
