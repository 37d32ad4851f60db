"""What stands between a site's round and its images: who pays for the reads, and the charge that each of them passes."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from mpssl_fed.data.datasets import Images
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.privacy.mechanism import Charge, Kind
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.shared.history import History


class Spending(Protocol):
    """What stands between a round and the images: it records the round before its first read and says how it may read."""

    @property
    def public_size(self) -> int | None:
        """The declared size, the site's weight in the average; None outside differential privacy."""

    def open_round(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> PrivateData | None:
        """Return the images behind their releases, each of which passes ``charge``; None for exact reads.

        noise: where draws and noise come from, by default what the config names.
        """

    def foresee(self, run: str, number: int, first: bool) -> None:
        """Raise the Refusal ``plan`` or ``budget`` that :meth:`reserve` would, before anything is built; nothing is written."""

    def reserve(self, run: str, number: int, first: bool, labelled: Images) -> Charge:
        """Return the charge of round ``number`` once it is recorded on disk; Refusal where the round is not to be.

        first: the site has no state of this run yet; labelled: all images of the site, those that it holds out among them.
        """

    def open_evaluation(self, run: str, parts: Parts, charge: Charge, noise: Noise | None) -> DPPrivateData | None:
        """Return what the site holds out behind its release, as :meth:`open_round` does what it trains on."""

    def foresee_evaluation(self, run: str, number: int) -> None:
        """Raise the Refusal that :meth:`reserve_evaluation` would."""

    def reserve_evaluation(self, run: str, number: int, labelled: Images) -> Charge:
        """Return the charge of the evaluation after round ``number`` once it is recorded on disk, as :meth:`reserve` does."""


def refuse_reads(kind: Kind, sigma: float, q: float) -> None:
    """Charge nothing and allow nothing: for a learner that only shows its synthetic images."""
    raise RuntimeError(f"release '{kind}' (sigma {sigma:g}, q {q:g}) was not reserved")


def allowance(releases: History) -> Charge:
    """Return the charge of a round: it counts down what was reserved and raises on one release more."""
    left: Counter[tuple[float, ...]] = Counter()
    for key, n in releases.items():
        left[key[:2]] += n

    def charge(kind: Kind, sigma: float, q: float) -> None:
        if left[sigma, q] < 1:
            refuse_reads(kind, sigma, q)
        left[sigma, q] -= 1

    return charge


class Reserved:
    """A charge that allows nothing until ``by`` is what :meth:`Spending.reserve` returned: what is built before costs nothing."""

    by: Charge = staticmethod(refuse_reads)

    def __call__(self, kind: Kind, sigma: float, q: float) -> None:
        """Charge one release."""
        self.by(kind, sigma, q)
