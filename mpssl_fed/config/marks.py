"""Who decides a key when a message asks a deployed site for it: the server, the site's owner, or nobody.

Each section of the schema says it of its own keys, in ``marks``. A simulated site is its own server and owner and looks at none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RELEASED = "works on released gradients and synthetic images alone"
PUBLIC = "public random streams and synthetic images alone"
WORK = "work and memory, bounded"
PRICED = "the plan pays for it"
NO_PATH = "no path from outside is followed"
OWN_IMAGES = "a site has its own images"
AT_SERVER = "happens at the server"
OFF_ALONE = "scope off alone: what reads images without noise"
GIVEN = "the images as the owner gives them"


@dataclass(frozen=True)
class Mark:
    """Who decides a key, and why that is safe.

    who: ``server``, within [low, high] or ``words`` (neither: whatever the schema takes, a switch or a named choice); ``site``,
    as the policy says, else the installed default, where an owner may say [low, high]; ``ignored``, no meaning at a site.
    code: what a site answers to any other value. owner: where the owner says it, fields of the policy or an option of ``site
    run``; empty: the policy's ``settings``. fixed: not even the owner may change it.
    """

    who: Literal["server", "site", "ignored"]
    why: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    code: str = ""
    owner: str = ""
    fixed: bool = False


Marks = Mapping[str, Mark]
"""Names of keys, with blanks between them -> their mark."""


def server(
    why: str,
    low: float | None = None,
    high: float | None = None,
    words: tuple[str, ...] = (),
    code: str = "server-key",
    owner: str = "",
) -> Mark:
    """Return the mark of a key that a server may set, as far as a site accepts by default."""
    return Mark("server", why, low, high, words, code, owner)


def site(
    why: str, low: float | None = None, high: float | None = None, code: str = "site-key", owner: str = "", fixed: bool = False
) -> Mark:
    """Return the mark of a key that is the owner's, whatever a message says: another value in a message is refused."""
    return Mark("site", why, low, high, (), code, owner, fixed)


def ignored(why: str) -> Mark:
    """Return the mark of a key that a deployed site does not read: it passes with any value."""
    return Mark("ignored", why)
