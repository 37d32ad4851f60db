"""Put a learner together from a config, a classifier, a generator and a site's labelled images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import Generator
from mpssl_fed.generators.foundation import foundation_classifier
from mpssl_fed.method.anchor import Anchor
from mpssl_fed.method.freematch import FreeMatch  # noqa: F401  (registers its name)
from mpssl_fed.method.losses import LOSSES
from mpssl_fed.method.private_data import ExactPrivateData, PrivateData, split_validation
from mpssl_fed.method.pseudo_label import PseudoLabel
from mpssl_fed.method.sources import SOURCES, Source, Task
from mpssl_fed.method.step import Learner
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier
from mpssl_fed.seeds import numpy_rng, seed_of

DEFAULT_BATCH = 32


def needs_generator(config: Config) -> bool:
    """Return whether a site needs the generator for this config."""
    return config.method.source not in ("none", "real") or config.federation.anchor.weight > 0


def build_learner(
    config: Config,
    classifier: Classifier,
    generator: Generator | None,
    labelled: Images,
    *,
    flip: bool,
    site: int,
    unlabeled: Images | None = None,
    private: PrivateData | None = None,
) -> Learner:
    """Return the learner of one site.

    classifier and generator are on the device of the run; labelled: the site's images; flip: whether a mirrored image keeps
    its label; site: the partition id, which only seeds streams; private: a release object under differential privacy, exact
    reads of ``labelled`` otherwise. Raises UserError for names that do not exist, a method whose loss reaches nothing that
    is trained, or a site without labelled images.
    """
    method = config.method
    views = Views(flip, classifier.size)
    autocast = _autocast(config, classifier.head.weight.device)
    loss = None if method.loss == "none" else LOSSES[str(method.loss)](method, len(classifier.classes))
    if loss and not loss.reaches_head and not any(name.startswith("body.") for name in classifier.theta()):
        loss = None  # a feature loss has nothing to train: the cell equals base, and no private read is made for it
    source: Source | None = None
    if loss:
        device, seed = classifier.head.weight.device, seed_of(config.seed, "site", site)
        task = Task(len(classifier.classes), classifier.channels, classifier.size, seed, device, classifier.head.weight.dtype)
        if method.source == "pseudo-label":
            foundation = foundation_classifier(config.generator.name, config.generator.foundation)
            source = PseudoLabel(method, task, generator, foundation)
        else:
            source = SOURCES[str(method.source)](method, task, generator, unlabeled)
    anchor = None
    if config.federation.anchor.weight > 0:
        if generator is None:
            raise UserError("federation.anchor.weight > 0 needs a generator")
        anchor = Anchor(config.federation.anchor, classifier, generator, config.seed)
    if private is None:
        private = _exact(config, classifier, labelled, views, site, autocast)
    return Learner(config, classifier, private, views, source, loss, anchor, site, autocast)


def _exact(
    config: Config,
    classifier: Classifier,
    labelled: Images,
    views: Views,
    site: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> ExactPrivateData:
    """Return exact reads. Only LMO reads D_val, so the other methods train on every labelled image."""
    if not len(labelled):
        raise UserError(f"site {site} has no labelled image; another data.partition or fewer sites would give it some")
    train = val = labelled
    if config.method.source == "meta-optimised":
        rng = numpy_rng(config.seed, "site", site, "validation split")
        train_index, val_index = split_validation(labelled.y.numpy(), config.data.val_fraction, rng)
        train, val = labelled.take(train_index), labelled.take(val_index)
    return ExactPrivateData(
        classifier,
        train,
        val,
        augment=views.labelled(config.method.augment),
        plain=views.plain,
        batch_size=config.optim.batch_size or DEFAULT_BATCH,
        per_class=config.method.gap.per_class,
        autocast=autocast,
    )


def _autocast(config: Config, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return bf16 autocast for first-order passes where the config asks for it."""
    if config.runtime.autocast == "off":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
