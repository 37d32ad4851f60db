"""Put the releases of a site together from a config, a solved sigma and a charge."""

from __future__ import annotations

from collections.abc import Callable

from mpssl_fed.config import Config
from mpssl_fed.config.federation import Privacy
from mpssl_fed.data import augment
from mpssl_fed.method.build import DEFAULT_BATCH
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import ExactPrivateData, LabelledViews, PrivateData
from mpssl_fed.method.supervised import loss_weights
from mpssl_fed.method.validation import Split
from mpssl_fed.method.views import Views
from mpssl_fed.privacy.mechanism import Charge
from mpssl_fed.privacy.noise import Noise, noise_source
from mpssl_fed.privacy.plan import Plan
from mpssl_fed.privacy.releases import AugmentRows, DPPrivateData, LabelledStepPrivateData, ReleasedImages, ReleaseSettings
from mpssl_fed.privacy.units.per_unit import Speed


def release_settings(plan: Plan, config: Config) -> ReleaseSettings:
    """Return the settings of a plan's releases; ``config`` adds where they live and the public weights of classes."""
    privacy = config.privacy
    return ReleaseSettings(plan, privacy.meta_params, privacy.count_floor, privacy.class_weights, config.method.loss_weights)


def speed_of(privacy: Privacy) -> Speed:
    """Return how releases are computed, which costs no privacy."""
    return Speed(privacy.max_physical_batch, privacy.per_unit)


def private_data(config: Config, parts: Parts, *, plan: Plan, charge: Charge, noise: Noise | None = None) -> PrivateData:
    """Return the private data of a site under ``config.privacy.scope`` (not ``off``): what ``build_learner`` takes as private.

    plan: what ``plan_for`` returns for the config at this site; charge is called before each private read; noise defaults
    to what ``privacy.noise`` names. Under ``labelled-step`` only (a) is a release; the caller records that the others are
    not accounted for.
    """
    released = releases(config, parts, plan, charge, noise)
    if config.privacy.scope == "end-to-end":
        return released
    if config.privacy.scope != "labelled-step":
        raise ValueError(f"privacy.scope={config.privacy.scope} has no releases")
    return LabelledStepPrivateData(released, exact_beside(config, parts))


def releases(
    config: Config,
    parts: Parts,
    plan: Plan,
    charge: Charge,
    noise: Noise | None = None,
    kind: Callable[..., DPPrivateData] = DPPrivateData,
) -> DPPrivateData:
    """Return all labelled images behind the releases of ``plan``; ``kind`` is called as DPPrivateData is."""
    size = parts.classifier.size
    view = labelled_view(config.method.augment, parts.flip, size)
    return kind(
        parts.classifier,
        ReleasedImages(parts.labelled, view, Views(parts.flip, size).plain),
        release_settings(plan, config),
        charge,
        noise or noise_source(config.privacy.noise),
        speed_of(config.privacy),
    )


def exact_beside(config: Config, parts: Parts, kind: Callable[..., ExactPrivateData] = ExactPrivateData) -> ExactPrivateData:
    """Return what ``labelled-step`` reads without noise; ``kind`` is called as ExactPrivateData is."""
    views = Views(parts.flip, parts.classifier.size)
    return kind(
        parts.classifier,
        Split.none(parts.labelled),
        LabelledViews(
            views.labelled(config.method.augment), views.plain, loss_weights(config.method.loss_weights, parts.classifier)
        ),
        batch_size=DEFAULT_BATCH,
        per_class=config.method.gap.per_class,
    )


def labelled_view(name: str, flip: bool, size: int) -> AugmentRows:
    """Return the augmentation ``none``, ``weak`` or ``half-strong`` of labelled images, from rows of randomness."""
    if name == "none":
        plain = Views(flip, size).plain
        return lambda x, _: plain(x)
    apply = augment.apply_weak if name == "weak" else augment.apply_half_strong
    return lambda x, rows: apply(x, rows, flip, size)
