"""Put a learner together from a config, a classifier, a generator and a site's labelled images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from mpssl_fed.config import Config, draws_from_generator
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import Generator
from mpssl_fed.generators.foundation import foundation_classifier
from mpssl_fed.method import meta_optimised  # noqa: F401  (registers its name, and that of the closed form)
from mpssl_fed.method.anchor import Anchor
from mpssl_fed.method.freematch import momentum
from mpssl_fed.method.losses import LOSSES, UnsupervisedLoss
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import ExactPrivateData, LabelledViews, PrivateData
from mpssl_fed.method.pseudo_label import PseudoLabel
from mpssl_fed.method.reads import reads
from mpssl_fed.method.sources import SOURCES, Source, Task
from mpssl_fed.method.step import Learner, Unsupervised
from mpssl_fed.method.supervised import loss_weights
from mpssl_fed.method.validation import Split
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier
from mpssl_fed.seeds import numpy_rng, seed_of

DEFAULT_BATCH = 32


def needs_generator(config: Config) -> bool:
    """Return whether a site needs the generator for this config."""
    return draws_from_generator(config.method.source, config.federation.anchor.weight)


def build_learner(config: Config, parts: Parts, *, site: int, private: PrivateData | None = None) -> Learner:
    """Return the learner of one site around the classifier of ``parts``.

    site: the partition id, which only seeds streams; private: a release object under differential privacy, exact reads of the
    labelled images otherwise. Raises UserError for names that do not exist, a method whose loss reaches nothing that is
    trained, or a site without labelled images.
    """
    classifier = parts.classifier
    views = Views(parts.flip, classifier.size)
    autocast = _autocast(config, classifier.head.weight.device)
    loss = _loss(config, classifier)
    if private is None:
        private = _exact(config, parts, site, autocast, unsupervised=loss is not None)
    unsupervised = None
    if loss is not None:
        _check_slices(config, classifier, loss)
        source = _source(config, _task(config, classifier, views, private, site), parts.generator, parts.unlabeled)
        unsupervised = Unsupervised(source, loss)
    anchor = None
    if config.federation.anchor.weight > 0:
        if parts.generator is None:
            raise UserError("federation.anchor.weight > 0 needs a generator")
        anchor = Anchor(config.federation.anchor, classifier, parts.generator, config.seed)
    return Learner(config, classifier, private, views, unsupervised, anchor, site, autocast)


def _loss(config: Config, classifier: Classifier) -> UnsupervisedLoss | None:
    """Return the unsupervised loss; None where there is none or it reaches nothing that is trained: the cell equals base."""
    method, federation = config.method, config.federation
    if not reads(config, classifier.trains_body).unsupervised:
        return None
    ema = momentum(method.freematch.ema, federation.rounds * federation.local_steps)
    scaled = method.model_copy(update={"freematch": method.freematch.model_copy(update={"ema": ema})})
    return LOSSES[str(method.loss)](scaled, len(classifier.classes))


def _check_slices(config: Config, classifier: Classifier, loss: UnsupervisedLoss) -> None:
    """UserError where the gradients of slices do not add up to that of the batch."""
    size, batch = config.method.micro_batch, config.method.lmo_batch
    if size is None or size >= batch or (loss.additive and not classifier.mixes_images):
        return
    why = "model.norm=batch normalises over" if loss.additive else f"method.loss={config.method.loss} compares"
    raise UserError(
        f"method.micro_batch={size}: {why} the images of a batch, so slices are inexact; set it to null, or to "
        f"method.lmo_batch={batch} or more, which takes the generator alone in slices"
    )


def _task(config: Config, classifier: Classifier, views: Views, private: PrivateData, site: int) -> Task:
    return Task(
        classifier.classes,
        classifier.channels,
        classifier.size,
        seed_of(config.seed, "site", site),
        views,
        private.class_weights(),
        config.method.relevant,
        classifier.head.weight.device,
        classifier.head.weight.dtype,
    )


def _source(config: Config, task: Task, generator: Generator | None, unlabeled: Images | None) -> Source:
    if config.method.source == "pseudo-label":
        foundation = foundation_classifier(config.generator.name, config.generator.foundation)
        return PseudoLabel(config.method, task, generator, foundation)
    return SOURCES[str(config.method.source)](config.method, task, generator, unlabeled)


def _exact(
    config: Config, parts: Parts, site: int, autocast: Callable[[], AbstractContextManager[object]], unsupervised: bool
) -> ExactPrivateData:
    """Return exact reads. Methods with an unsupervised loss train on D_train, so that all of them see the same labels."""
    labelled, views = parts.labelled, Views(parts.flip, parts.classifier.size)
    if not len(labelled):
        raise UserError(f"site {site} has no labelled image; another data.partition or fewer sites would give it some")
    split = Split.none(labelled)
    if unsupervised if config.method.hold_out is None else config.method.hold_out:
        split = Split.of(labelled, config.data.val_fraction, numpy_rng(config.seed, "site", site, "validation split"))
    return ExactPrivateData(
        parts.classifier,
        split,
        LabelledViews(
            views.labelled(config.method.augment), views.plain, loss_weights(config.method.loss_weights, parts.classifier)
        ),
        batch_size=config.optim.batch_size or DEFAULT_BATCH,
        per_class=config.method.gap.per_class,
        autocast=autocast,
    )


def _autocast(config: Config, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return bf16 autocast for first-order passes where the config asks for it."""
    if config.runtime.autocast == "off":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
