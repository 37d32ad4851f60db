"""A site's generator: no byte of its files is run or unpickled unless the owner's policy lists its SHA-256."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.generators.base import Generator
from mpssl_fed.generators.files import comes_installed, copy_approved, files_of, place_of, sums
from mpssl_fed.privacy.policy import Policy, PublicGenerator

log = logging.getLogger("mpssl_fed.daemon")
HOW = "mpssl-fed policy generator NAME --path FILE prints its lines for the policy"


@dataclass
class OwnGenerator:
    """The generators of ``policy`` on this machine.

    path: the owner's ``--generator-path``, which every entry with ``files`` is loaded from that has no place of its own. copies: a
    folder in the 0700 state, in which the bytes that were compared wait to be loaded.
    """

    policy: Policy | None
    path: str | None
    copies: Path
    _ready: dict[str, tuple[Path, PublicGenerator]] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Raise UserError for entries that could never be used, and for files at the owner's path that no entry lists."""
        if self.policy is None:
            return
        for entry in self.policy.generators:
            if not entry.files and not comes_installed(entry.name):
                raise UserError(
                    f"policy: generator '{entry.name}' does not come with the toolkit; list the SHA-256 of its files, so that they "
                    f"are compared before any of them is loaded. {HOW}"
                )
        listed = [entry for entry in self.policy.generators if entry.files]
        if self.path is None:
            return
        found = sums(Path(self.path))
        if not any(entry.files.items() <= found.items() for entry in listed):
            told = "; ".join(f"{name}: {digest}" for name, digest in list(found.items())[:8])
            raise UserError(f"--generator-path {self.path}: the policy lists no generator of these files ({told}). {HOW}")

    def private_files(self) -> list[Path]:
        """Return the owner's own files and their folder: as private as the images."""
        if self.path is None:
            return []
        place = Path(self.path)
        return [place, *files_of(place).values()]

    def public_places(self) -> list[Path]:
        """Return where else entries are loaded from: anyone may read that, and the owner alone may change it."""
        entries = () if self.policy is None else self.policy.generators
        places = [place_of(entry.name, None) for entry in entries if entry.files and self.path is None]
        return [path for place in places if place is not None and place.exists() for path in (place, *files_of(place).values())]

    def load(self, config: Config) -> tuple[Config, Generator | None, str | None]:
        """Return the config with this site's path, its generator, and the identity that the policy knows it by.

        None and None where the run needs no generator. Refusal ``generator`` where none of the policy's is here.
        """
        if not config.draws:
            return config, None, None
        path, entry = self._approved(config.generator.name)
        local = config.model_copy(update={"generator": config.generator.model_copy(update={"path": path})})
        generator = parts.generator(local)
        assert generator is not None
        return local, generator, generator.state_hash() if entry is None or entry.sha256 else entry.identity

    def _approved(self, name: str) -> tuple[str | None, PublicGenerator | None]:
        """Return the path to load ``name`` from and the entry whose files lie there; (None, None) for what comes installed."""
        if name in self._ready and self._ready[name][0].exists():
            return str(self._ready[name][0]), self._ready[name][1]
        entries = [entry for entry in self.policy.generators if entry.name == name] if self.policy else []
        if not any(entry.files for entry in entries) and comes_installed(name):
            return None, None
        place = place_of(name, self.path)
        for entry in entries:
            if entry.files and place is not None:
                try:
                    copy = copy_approved(place, entry.files, self.copies / entry.listing[:16])
                except UserError as error:
                    log.warning("declined (generator): %s", error)
                    continue
                self._ready[name] = (copy, entry)
                return str(copy), entry
        log.warning("declined (generator): no files of '%s' here are those of the policy. %s", name, HOW)
        raise Refusal("generator")


def policy_entry(config: Config, generator: Generator) -> dict[str, Any]:
    """Return the entry of ``policy.generators`` that permits the generator of ``config`` where it lies on this machine."""
    name, path = config.generator.name, config.generator.path
    entry: dict[str, Any] = {"name": name, "sha256": generator.state_hash(), "trained_on": "as its manifest says"}
    place = place_of(name, path)
    return entry if place is None or (path is None and comes_installed(name)) else entry | {"files": sums(place)}
