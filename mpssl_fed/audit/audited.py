"""What is audited, and what its audits share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpssl_fed.audit.canary import audit_config
from mpssl_fed.audit.mechanism import TRIALS
from mpssl_fed.audit.uncharged import Uncharged
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.sides import sides, split_key
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Classifier
from mpssl_fed.privacy.build import releases
from mpssl_fed.privacy.plan import Plan
from mpssl_fed.privacy.releases import DPPrivateData


@dataclass(frozen=True)
class Audited:
    """What is audited. run_id and folder (of the simulated sites' state) are None at a deployed site; trained is the released
    classifier, where there is one; most: images a side of the membership attack."""

    config: Config
    site: int
    seed: int = 0
    run_id: str | None = None
    folder: Path | None = None
    trained: Classifier | None = None
    canaries: int = 20_000
    trials: int = TRIALS
    shadows: int = 8
    iterations: int = 300
    most: int = 1000
    progress: Callable[[str], None] | None = None
    own: Images | None = None
    """A deployed site's own images; a simulation's are those of its data set."""
    key: bytes = b""
    """By which a deployed site holds images out."""
    source: str | None = None
    """Where a deployed site's own images lie."""

    def tell(self, text: str) -> None:
        """Show a line of progress, where someone watches."""
        if self.progress is not None:
            self.progress(text)

    @property
    def labelled(self) -> Images:
        """The images that the site trains on; UserError where it has none."""
        simulated = self.own is None
        images = parts.labelled(self.config, self.site) if self.own is None else self.own
        images, _ = sides(self.config, images, split_key(self.config, self.site) if simulated else self.key)
        if not len(images):
            raise UserError(f"site {self.site} holds no image to audit; choose another --site")
        return images

    @property
    def flip(self) -> bool:
        """Whether a mirrored image keeps its label."""
        return parts.task(self.config).flip

    @property
    def private(self) -> Config:
        """The config; where it has no privacy, the same method under an epsilon of 1."""
        return self.config if self.config.privacy.on else audit_config(self.config)

    def held_out(self) -> Images:
        """Return images of nobody of whom a site was given any: of the training pool where some are left, else the test set."""
        data = parts.dataset(self.config)
        given = np.concatenate(parts.shares(self.config))
        left = np.setdiff1d(np.arange(len(data.train)), given)
        unit = data.train.units()
        left = left[~np.isin(unit[left], unit[given])]
        return data.train.take(left) if len(left) >= len(given) else data.test


def releases_of(audited: Audited, plan: Plan, images: Images | None = None, model: Classifier | None = None) -> DPPrivateData:
    """Return the releases of a plan at q 1, charged nowhere, around a classifier of their own; of shared noise, the site's part."""
    config = audited.private
    classifier = model or parts.initial_classifier(config)
    site = Parts(audited.labelled if images is None else images, classifier, None, audited.flip)
    without_end = Uncharged({(one.sigma, 1.0): 10**9 for one in plan.alone().mechanisms().values()})
    found = releases(config, site, replace(plan, q=1.0), without_end)
    found.audited = True
    return found


def some_of(images: Images, most: int, rng: np.random.Generator) -> Images:
    """Return at most ``most`` of the images, drawn by ``rng``, in their order; whole subjects, one at least, if named."""
    unit = images.units()
    sizes = np.bincount(unit)
    drawn = rng.permutation(len(sizes))
    fits = max(1, int((np.cumsum(sizes[drawn]) <= most).sum()))
    return images.take(np.flatnonzero(np.isin(unit, drawn[:fits])))
