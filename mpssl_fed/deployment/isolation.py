"""Private folders, and whether another system user could read or replace what is in them: from owners and modes on the way."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed import environment
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown

ACL = "system.posix_acl_access"


@dataclass(frozen=True)
class User:
    """A system user with all of its groups."""

    uid: int
    gid: int
    gids: frozenset[int]

    @staticmethod
    def named(name: str) -> User:
        """Return the user with this name or number; UserError when the system does not know it."""
        try:
            entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        except KeyError as error:
            if name.isdigit():
                return User(int(name), int(name), frozenset({int(name)}))
            raise UserError(f"--supernode-user {name}: no such user; make one, for example: useradd --system {name}") from error
        return User(entry.pw_uid, entry.pw_gid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))

    def may(self, path: Path, bit: int) -> bool:
        """Whether mode bits grant ``bit`` (4 read, 2 write, 1 enter) on ``path`` itself; an access list counts as yes."""
        if self.uid == 0:
            return True
        status = path.stat()
        if _has_acl(path):
            return True
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid == self.uid:
            return True  # an owner can change the mode
        if status.st_gid in self.gids:
            return bool(mode >> 3 & bit)
        return bool(mode & bit)

    def can_read(self, path: Path) -> bool:
        """Whether the user can come to ``path`` and read it, or change who may."""
        path = path.resolve()
        on_the_way = list(path.parents)
        if any(not self.may(folder, 1) for folder in on_the_way):
            return False
        return self.may(path, 4) or self.may(path, 2) or (path.is_dir() and self.may(path, 1))

    def can_swap(self, path: Path) -> Path | None:
        """Return the folder on the way to the absolute ``path`` in which the user can put something else in its place.

        None without one. Where the way leads over links, both ways are to be asked about: as given, and resolved.
        """
        if path.is_symlink() and path.lstat().st_uid == self.uid:
            return path
        for folder in reversed(path.parents):
            if not self.may(folder, 1):
                return None
            if self.may(folder, 2) and not folder.stat().st_mode & stat.S_ISVTX:  # sticky: only an owner moves what is in it
                return folder
        return None


def group_id(name: str) -> int:
    """Return the number of a group; UserError when the system does not know it."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise UserError(f"--group {name}: no such group; make one, for example: groupadd --system {name}") from error


def exposed(user: User, private: Iterable[Path]) -> Path | None:
    """Return the first private path that ``user`` can read, or a folder in which it can replace one; None when there is none."""
    closed: set[Path] = set()  # folders known to let the user reach nothing in them
    fixed: set[Path] = set()  # folders known to stay where they are
    for link in private:
        path = link.resolve()  # what a link points to is as private as what it stands for
        for way in (link.absolute(), path):
            if (way.parent not in fixed or way.is_symlink()) and (weak := user.can_swap(way)) is not None:
                return weak
            fixed.add(way.parent)
        folder = path.parent
        if folder in closed:
            continue
        if user.can_read(path):
            return path
        if not user.may(folder, 1):
            closed.add(folder)
    return None


def replaceable(user: User, run: Iterable[Path]) -> Path | None:
    """Return the first path, or folder on the way to one, that ``user`` can change; None when there is none. All may be read."""
    fixed: set[Path] = set()
    for link in run:
        path = link.resolve()
        for way in (link.absolute(), path):
            if (way.parent not in fixed or way.is_symlink()) and (weak := user.can_swap(way)) is not None:
                return weak
            fixed.add(way.parent)
        if user.may(path, 2) and all(user.may(folder, 1) for folder in path.parents):
            return path
    return None


def code_places() -> list[Path]:
    """Return what this process is made of: its interpreter, the folders that modules come from, this package's code and weights."""
    modules = [Path(entry or ".") for entry in sys.path if Path(entry or ".").exists()]
    package = Path(__file__).parents[1]
    return [Path(sys.executable), *modules, package, *package.rglob("*")]


def _has_acl(path: Path) -> bool:
    with contextlib.suppress(OSError, AttributeError):  # a file system or a platform without access lists
        return ACL in os.listxattr(path)
    return False


def state_folder(name: str) -> Path:
    """Return ``$XDG_STATE_HOME/mpssl-fed/NAME``, the 0700 folder of one site; UserError for a name that is no folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(f"site name '{name}': want letters, digits, '-', '_' and '.', for example site-0")
    return environment.state_folder() / name


def make_private(folder: Path) -> Path:
    """Make ``folder`` 0700; UserError when it belongs to someone else, or is open and not empty (``/``, a home)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.geteuid():
        raise UserError(f"{folder} belongs to another user; give it to this one, or choose another --state")
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        if any(folder.iterdir()):
            raise UserError(f"{shown(folder)} is open to others and holds something; name a new folder, or close it: chmod 700")
        folder.chmod(0o700)
    return folder
