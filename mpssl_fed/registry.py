"""Named parts (sources, losses, generators, data sets, partitioners, strategies), ours and other packages'."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from mpssl_fed.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts by name. Another package adds one through an entry point of the group ``mpssl_fed.KIND``.

    Entry points are read only when a name is not ours, so no foreign code is imported unless a config asks for it, and no
    package can replace one of our names.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a part under ``name``; ValueError if the name is taken."""

        def register(part: T) -> T:
            if name in self._parts:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._parts[name] = part
            return part

        return register

    def names(self) -> list[str]:
        """Return our names, then those of installed plug-ins, sorted within each."""
        return sorted(self._parts) + sorted(set(self._plugins()) - set(self._parts))

    def __getitem__(self, name: str) -> T:
        """Return the part; UserError that lists the valid names otherwise."""
        if name in self._parts:
            return self._parts[name]
        plugins = self._plugins()
        if name in plugins:
            part: T = plugins[name].load()
            return part
        raise UserError(
            f"unknown {self.kind} '{name}'.{nearest(name, self.names())} Known: {', '.join(self.names())}. "
            f"Another package can add one by an entry point of the group 'mpssl_fed.{self.kind}'."
        )

    def __contains__(self, name: str) -> bool:
        return name in self._parts or name in self._plugins()

    def is_plugin(self, name: str) -> bool:
        """Return whether ``name`` is of another package."""
        return name not in self._parts and name in self._plugins()

    def _plugins(self) -> dict[str, Any]:
        return {point.name: point for point in entry_points(group=f"mpssl_fed.{self.kind}")}
