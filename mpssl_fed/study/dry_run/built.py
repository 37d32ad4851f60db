"""The objects of a cell as a dry run builds them: networks on torch's meta device, a learner around blank images."""

from __future__ import annotations

from functools import cache

import torch

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.partition import COLUMN, Standing, choose_labelled, partition
from mpssl_fed.errors import UserError
from mpssl_fed.federation.parts import holders_of
from mpssl_fed.generators.base import Generator, load_generator
from mpssl_fed.generators.biggan import PUBLISHED, BigGANGenerator
from mpssl_fed.method import Learner, build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Architecture, Classifier, build_classifier
from mpssl_fed.study.dry_run.known_data import KnownData

STEM = [[False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8]]
TAIL = [[True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2], [True, 2, 1]]
LAYERS = {
    "biggan-deep-128": STEM + TAIL,
    "biggan-deep-256": [*STEM, [True, 8, 8], [False, 8, 8], *TAIL],
    "biggan-deep-512": [*STEM, [True, 8, 8], [False, 8, 8], *TAIL, [False, 1, 1], [True, 1, 1]],
}
"""[up-sample, width in, width out] of the published generators, attention at 64 px: arXiv 1809.11096, appendix B."""


def smallest_share(config: Config, data: KnownData) -> int:
    """Choose and deal labels as a run would, and return the smallest site's number of them."""
    y, sites = data.labels(), config.federation.sites
    per_class = config.data.labels_per_class
    if per_class is not None and config.data.labels_over == "site":
        per_class *= sites
    chosen = choose_labelled(y, per_class, config.data.label_fraction, config.seed, data.subjects, sites)
    section = config.data.partition
    subjects = None if data.subjects is None else [data.subjects[i] for i in chosen.tolist()]
    standing = Standing(holders=holders_of(config, data.sites, data.subjects, chosen))
    sizes = [len(part) for part in partition(y[chosen], sites, section.name, config.seed, subjects, standing, **section.given())]
    if not min(sizes) and not config.privacy.on:
        cure = "raise data.labels_per_class" if section.name == COLUMN else "lower federation.sites"
        raise UserError(f"data.partition={section.name}: a site would hold no labelled image; {cure}")
    if config.method.source == "real" and len(chosen) == len(y):
        raise UserError("method.source=real: every image would be labelled, none is left unlabeled")
    return min(sizes)


@cache
def classifier_of(architecture: Architecture) -> Classifier:
    """Return a classifier without storage."""
    return build_classifier(architecture, blank=True).to("meta")


def generator_of(config: Config) -> Generator:
    """Return the run's generator without storage; a published one is built, not loaded."""
    section = config.generator
    return _meta_generator(section.name, section.path, section.truncation)


@cache
def _meta_generator(name: str, path: str | None, truncation: float) -> Generator:
    if name not in PUBLISHED:
        return load_generator(name, path, truncation).to("meta")
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

    with torch.device("meta"):
        model = BigGAN(BigGANConfig.from_dict({"layers": LAYERS[name], "output_dim": int(name.rpartition("-")[2])}))
    generator = BigGANGenerator(name, model, tuple(map(str, range(1000))), truncation)
    return generator.to("meta").eval().requires_grad_(False)


def learner_of(config: Config, classifier: Classifier, generator: Generator | None, data: KnownData, size: int) -> Learner:
    """Return the site's learner around two images per class that no one has seen."""
    y = torch.arange(data.classes).repeat(2)
    blank = Images(torch.zeros(len(y), data.channels, size, size, dtype=torch.uint8), y)
    method = config.method
    if method.source in ("oracle", "anti-oracle") or (method.source == "pseudo-label" and config.generator.name in PUBLISHED):
        # The names of classes are not known here, and the foundation classifier may not be there yet: built like a random source.
        method = method.model_copy(update={"source": "random"})
    config = config.model_copy(update={"method": method.model_copy(update={"relevant": {}})})
    return build_learner(config, Parts(blank, classifier, generator, data.flip, blank), site=0)
