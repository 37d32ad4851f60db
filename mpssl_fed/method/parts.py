"""What one site trains with, handed in as one value."""

from __future__ import annotations

from dataclasses import dataclass

from mpssl_fed.data.datasets import Images
from mpssl_fed.generators.base import Generator
from mpssl_fed.models import Classifier


@dataclass(frozen=True)
class Parts:
    """All that one site trains a round with: whoever holds it needs to look nothing up, and reaches no other site's images.

    labelled: the images that the site trains on; classifier: its own, on the run's device, with the weights to begin from;
    generator: frozen, on that device, None where nothing draws from it; flip: whether a mirrored image keeps its label; unlabeled:
    real images, for ``ssl-real`` alone; held_out: images that the site only evaluates on, whole: these and those trained on, in
    the site's order; both are None where nothing is held out.
    """

    labelled: Images
    classifier: Classifier
    generator: Generator | None
    flip: bool
    unlabeled: Images | None = None
    held_out: Images | None = None
    whole: Images | None = None

    @property
    def owned(self) -> Images:
        """All labelled images of the site, those that are held out too: what its ledger knows it by."""
        return self.labelled if self.whole is None else self.whole
