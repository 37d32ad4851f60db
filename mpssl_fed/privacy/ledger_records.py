"""By what a ledger knows images and subjects again: HMACs of what identifies each, whatever size or unit a server asks for.

An image is known by its content, a subject by its id; both are kept, so that a change of unit finds them again. Version 0.1
kept HMACs of pixels at the size that was asked: such records count as overlapping, since nobody can tell any more.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mpssl_fed.privacy.ledger_errors import SharedRecordsError, SwappedDataError
from mpssl_fed.privacy.ledger_rows import Row, Tally

IMAGE, SUBJECT, EARLIER = "image", "subject", "earlier"
"""Kinds of records; the last are version 0.1's, each of an image or of a subject's images at one size."""

BY_SUBJECT = "subject"
"""The unit of privacy under which a subject's id counts as much as an image."""


@dataclass(frozen=True)
class Overlap:
    """How a data set's images and subjects compare with those on record: known stay, new are added, missing were there before.

    Records of version 0.1 count as known.
    """

    known: int
    new: int
    missing: int


@dataclass(frozen=True)
class Identities:
    """What identifies each image of a data set and each subject where they are named, as any bytes.

    unit: what is to be charged, an image or a subject; earlier: identities as version 0.1 formed them at the present size, asked
    for where a ledger holds such.
    """

    images: frozenset[bytes]
    subjects: frozenset[bytes] = frozenset()
    unit: str = IMAGE
    earlier: Callable[[], Iterable[bytes]] = tuple

    def macs(self, key: bytes) -> dict[bytes, str]:
        """Return each identity's HMAC and kind."""
        found = {record_mac(key, IMAGE, unit): IMAGE for unit in self.images}
        return found | {record_mac(key, SUBJECT, unit): SUBJECT for unit in self.subjects}


@dataclass
class Records:
    """The HMACs on record, by data set; the kinds that each has; where the owner accepted new files for old ones."""

    macs: dict[str, set[bytes]] = field(default_factory=dict)
    kinds: dict[str, set[str]] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)

    def add(self, row: Row, macs: Iterable[bytes] = ()) -> None:
        """Take in a row of kind records, with its HMACs, or accepted."""
        if row.kind == "records":
            self.macs.setdefault(row.dataset, set()).update(macs)
            self.kinds.setdefault(row.dataset, set()).update(row.body.get("kinds", {EARLIER: 0}))
            self.accepted.discard(row.dataset)
        elif row.kind == "accepted":
            self.accepted.add(row.dataset)

    def compare(self, dataset: str, data: Identities, key: bytes, tally: Tally) -> tuple[Overlap, dict[bytes, str]]:
        """Return the overlap of a data set with what is on record, and HMAC -> kind of what is new.

        SharedRecordsError when one stands under another name; SwappedDataError when none of those on record is left.
        """
        now = data.macs(key)
        earlier: set[bytes] = set()
        if any(EARLIER in kinds for kinds in self.kinds.values()):
            earlier = {record_mac(key, EARLIER, unit) for unit in data.earlier()}
        self._refuse_aliases(dataset, data.unit, now, earlier, tally)
        mine, kinds = self.macs.get(dataset, set()), self.kinds.get(dataset, set())
        known = mine & now.keys()
        unknown = EARLIER in kinds
        if mine and now and not known and not unknown and dataset not in self.accepted:
            raise SwappedDataError(
                f"no recorded image of '{dataset}' is in the data: give other data another name in the policy. If these are the "
                f"same images in new files, keep the name and run `mpssl-fed ledger accept LEDGER {dataset}`: what was spent stays"
            )
        new = {mac: kind for mac, kind in now.items() if mac not in mine}
        if unknown:  # which of them are there nobody can tell: none is missing
            return Overlap(len(mine), len(new), 0), new
        return Overlap(len(known), len(new), len(mine) - len(known)), new

    def _refuse_aliases(self, dataset: str, unit: str, now: Mapping[bytes, str], earlier: set[bytes], tally: Tally) -> None:
        for name in sorted(self.macs.keys() - {dataset}):
            shared = [now.get(mac, EARLIER) for mac in self.macs[name] if mac in now or mac in earlier]
            if any(kind != SUBJECT for kind in shared):
                raise SharedRecordsError(f"images of '{dataset}' were charged as '{name}': use that name, or remove the images")
            if shared and BY_SUBJECT in {unit, *tally.of(name).units}:
                raise SharedRecordsError(
                    f"subjects of '{dataset}' were charged as '{name}': use that name, or remove them; where other people have "
                    "the same ids, make the ids differ"
                )


def kinds_of(new: Mapping[bytes, str]) -> dict[str, int]:
    """Return how many there are of each kind."""
    return {kind: sum(one == kind for one in new.values()) for kind in sorted(set(new.values()))}


def digest_of(macs: Iterable[bytes]) -> str:
    """Return the SHA-256 of a row's HMACs in order, which its row holds."""
    return hashlib.sha256(b"".join(sorted(macs))).hexdigest()


def record_mac(key: bytes, kind: str, unit: bytes) -> bytes:
    """Return the HMAC-SHA256 under which something is on record; no two kinds have one in common."""
    name = b"record " if kind == EARLIER else f"record {kind} ".encode()
    return hmac.digest(key, name + hashlib.sha256(unit).digest(), "sha256")
