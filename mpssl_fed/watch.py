"""How long work tells whoever watches this process how far it is, without knowing who that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Watcher = Callable[[str, int, int], None]
"""(what, steps done, steps in all)."""


class _Watched:
    by: Watcher | None = None


def tell(what: str, done: int, total: int) -> None:
    """Say that ``done`` of ``total`` steps of ``what`` are done."""
    if _Watched.by is not None:
        _Watched.by(what, done, total)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` hear what is told in this process."""
    before, _Watched.by = _Watched.by, watcher
    try:
        yield
    finally:
        _Watched.by = before
