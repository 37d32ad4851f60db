"""What one site trains with, handed in as one value."""

from __future__ import annotations

from dataclasses import dataclass

from mpssl_fed.data.datasets import Images
from mpssl_fed.generators.base import Generator
from mpssl_fed.models import Classifier


@dataclass(frozen=True)
class Parts:
    """All that one site trains a round with: whoever holds it needs to look nothing up, and reaches no other site's images.

    labelled: the site's images; classifier: its own, on the run's device, with the weights to begin from; generator: frozen, on
    that device, None where nothing draws from it; flip: whether a mirrored image keeps its label; unlabeled: real images, for
    ``ssl-real`` alone.
    """

    labelled: Images
    classifier: Classifier
    generator: Generator | None
    flip: bool
    unlabeled: Images | None = None
