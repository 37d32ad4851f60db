"""A site's images under differential privacy: the reads of training and evaluation as noised, recorded releases.

Each release draws its own Poisson batch from all units, clips each unit in L2, sums, adds noise and divides by a public
number. Nothing else about the images comes out, whatever their number, classes or values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.data.augment import COLUMNS
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.method.private_data import ExactPrivateData, FeatureMeans
from mpssl_fed.method.supervised import loss_weights
from mpssl_fed.models import Classifier, Params
from mpssl_fed.models.norms import is_norm
from mpssl_fed.privacy.mechanism import Answer, Charge, Kind, Mechanism
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.plan import Plan
from mpssl_fed.privacy.units.per_unit import PerUnit, Speed, Unit, units_of
from mpssl_fed.privacy.units.places import draws

LABEL_ROWS = 1000

AugmentRows = Callable[[Tensor, Tensor], Tensor]
"""(images [n, C, H, W], randomness [n, columns]) -> views [n, C, S, S]."""


def secret_rows(n: int) -> Tensor:
    """Return augmentation randomness [n, columns] from operating-system entropy.

    The rows may not be public: a public row belongs to a place in the batch, one unit more would shift the places of others,
    and so one unit would move every contribution. Independent secret rows belong to their images.
    """
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16), "big")))
    return torch.from_numpy(rng.random((n, len(COLUMNS)), dtype=np.float32))


@dataclass(frozen=True)
class ReleaseSettings:
    """All public numbers of the releases; none may be derived from the data.

    plan: their mechanisms; meta_params: where (b) lives, ``norm`` for the body's GroupNorm scales and shifts or ``all`` of the
    body; count_floor: floor of (c)'s noisy count, as a share of its expectation; class_weights, loss_weights: of the task classes
    in the synthetic batch and in the loss on labelled images, None where all are alike.
    """

    plan: Plan
    meta_params: Literal["norm", "all"] = "norm"
    count_floor: float = 0.1
    class_weights: Sequence[float] | None = None
    loss_weights: Sequence[float] | None = None

    @property
    def unit(self) -> Unit:
        """Whose vectors are clipped."""
        return "subject" if self.plan.unit == "subject" else "image"

    @property
    def usual_draw(self) -> int:
        """Units that most draws do not exceed, a multiple of 4: the size of calls that take several at once. 1 where so few are
        drawn that each alone is quicker than a call that is filled up."""
        expected = self.plan.q * self.plan.public_size
        return 1 if expected <= 3 else 4 * math.ceil((expected + math.sqrt(expected)) / 4)

    @cached_property
    def _mechanisms(self) -> dict[Kind, Mechanism]:
        return self.plan.mechanisms()

    def mechanism(self, kind: Kind) -> Mechanism:
        """Return the mechanism of one release. RuntimeError where it is not planned."""
        if kind not in self._mechanisms:
            raise RuntimeError(f"release '{kind}' is not in the plan of this run")
        return self._mechanisms[kind]

    def clip(self, kind: Kind) -> float:
        """Return the L2 bound of a unit in one release."""
        return self.mechanism(kind).sensitivity


DEFAULT_SPEED = Speed()


@dataclass(frozen=True)
class ReleasedImages:
    """A site's images as releases see them. images: all of them (D_train = D_val = D); augment: the view of a labelled image from a
    row of randomness; plain: what an image passes unaugmented; rows: where the rows come from."""

    images: Images
    augment: AugmentRows
    plain: Callable[[Tensor], Tensor]
    rows: Callable[[int], Tensor] = secret_rows


class DPPrivateData:
    """The three reads as releases. ``released`` lists the mechanisms that answered since the round began; ``proceed`` is called
    before each batch of release (e), and what it raises ends it.

    classifier: without BatchNorm; charge: see :data:`Charge`; noise: where draws and noise come from. Raises UserError
    for BatchNorm or dropout, or where (b) lives on scales and shifts and the body trains none.
    """

    last_loss: None = None
    proceed: Callable[[], object] = bool
    audited = False
    """Whether an audit looks at what shares noise as one to whom all other sites give what they hold: at this site's own part."""

    def __init__(
        self,
        classifier: Classifier,
        labelled: ReleasedImages,
        settings: ReleaseSettings,
        charge: Charge,
        noise: Noise,
        speed: Speed = DEFAULT_SPEED,
    ) -> None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in classifier.modules()):
            raise UserError("model.norm=batch mixes the images of a batch; differential privacy needs model.norm=group")
        if draws(classifier):
            raise UserError(
                f"model.name={classifier.name} draws random numbers (dropout?), which differential privacy does not take"
            )
        self.classifier, self.settings, self.charge, self.noise = classifier, settings, charge, noise
        self.meta_keys = meta_keys(classifier, settings.meta_params)
        self._weights = public_weights(settings.class_weights, len(classifier.classes))
        self.released: list[Mechanism] = []
        reference = classifier.head.weight
        self.x, self.y = labelled.images.floats(reference.device).to(reference.dtype), labelled.images.y.to(reference.device)
        self.units = units_of(labelled.images, settings.unit)

        def per_unit(view: Callable[[Tensor, Callable[[int], Tensor]], Tensor]) -> PerUnit:
            def load(index: Tensor) -> tuple[Tensor, Tensor]:
                index = index.to(self.x.device)
                return view(self.x[index], labelled.rows), self.y[index]

            def copies(m: int) -> tuple[Tensor, Tensor]:
                rng = torch.Generator().manual_seed(0)
                image, row = torch.rand(self.x.shape[1:], generator=rng), torch.rand(1, len(COLUMNS), generator=rng)
                x = (2 * image - 1).to(self.x).repeat(m, 1, 1, 1)
                return view(x, lambda n: row.repeat(n, 1)), torch.zeros(m, dtype=self.y.dtype, device=self.y.device)

            how = (settings.unit, speed.backend, speed.max_physical_batch, settings.usual_draw)
            return PerUnit(classifier, load, copies, *how, loss_weights(settings.loss_weights, classifier))

        self._augmented = per_unit(lambda x, rows: labelled.augment(x, rows(len(x))))
        self._plain = per_unit(lambda x, _: labelled.plain(x))

    def begin_round(self, rng: torch.Generator, augment_rng: torch.Generator) -> None:
        """Begin a new list of releases. The public streams are not used: draws, noise and views are secret."""
        self.released = []

    def class_weights(self) -> Tensor:
        """Return public numbers: what the owner declares, or all alike. The site's labels are not looked at."""
        return self._weights

    def supervised_gradient(self, theta: Params) -> Params:
        """Release (a): the gradient of L_sup at theta, keyed like theta."""
        return dict(zip(theta, self.release("gradient", lambda batch: self.gradient_sum(theta, batch)).values, strict=True))

    def validation_gradient(self, theta_prime: Params) -> Params:
        """Release (b): the gradient of L_val at theta' with respect to ``meta_keys``."""
        release = self.release("meta", lambda batch: self.meta_sum(theta_prime, batch))
        return dict(zip(self.meta_keys, release.values, strict=True))

    def mean_feature(self, psi: Params) -> FeatureMeans:
        """Release (c): the mean of clipped features, over all images or a class each.

        A noisy sum over a noisy count, floored at ``count_floor`` times the count that public numbers lead to expect; a row
        whose count is below the floor is not present.
        """
        release = self.release("feature", lambda batch: self.feature_sum(psi, batch))
        noisy = release.values[0]  # [R, d + 1], divided by q x public_size
        weight = self.feature_weight()
        share = noisy[:, -1] / weight  # noisy count / (q x public_size)
        floor = self.settings.count_floor / len(noisy)
        values = noisy[:, :-1] / share.clamp_min(floor).unsqueeze(1)
        radius = math.sqrt(self.settings.clip("feature") ** 2 - weight**2)
        return FeatureMeans(values, share >= floor, self.settings.plan.per_class_gap, radius)

    def class_features(self, psi: Params) -> FeatureMeans:
        """Raise UserError: no release covers them."""
        raise UserError("the closed-form converter reads class means, which no release covers; choose another source under DP")

    def foundation_labels(self, foundation: nn.Module) -> Tensor:
        """Release, once a run: the distribution of foundation classes over the images, as one-hot rows [1000, K_F].

        The noisy sum of probabilities, negative ones set to zero, is normalised; rows stand in its proportions.
        """
        released = self.release("pseudo-label", lambda batch: self.label_sum(foundation, batch)).values[0].clamp_min(0)
        share = (released.cpu().double() + 1e-12).cumsum(0)  # uniform where the noise left nothing
        places = (torch.arange(LABEL_ROWS, dtype=share.dtype) + 0.5) / LABEL_ROWS * share[-1]
        return F.one_hot(torch.searchsorted(share, places), len(share)).to(released)

    def confusion(self, theta: Params) -> Tensor:
        """Release (e): how many units of each class are named as what at theta, [K, K], true class x named class."""
        return self.release("confusion", lambda batch: self.confusion_sum(theta, batch)).values[0]

    def gradient_sum(self, theta: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return the clipped sum behind (a) for the units in ``batch``. Private: never to be shown."""
        return self._augmented.gradients(theta, list(theta), batch, self.settings.clip("gradient"))

    def meta_sum(self, theta_prime: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return the clipped sum behind (b). Private."""
        return self._plain.gradients(theta_prime, self.meta_keys, batch, self.settings.clip("meta"))

    def feature_sum(self, psi: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return the clipped sum [R, d + 1] behind (c): features and, last, the constant that counts. Private.

        An image's feature is scaled into the ball of radius sqrt(clip^2 - weight^2), as the synthetic ones will be, and joined
        by the constant ``weight``, in the row of its label: a vector of norm at most clip, per class as much as in all.
        """
        rows = len(self.classifier.classes) if self.settings.plan.per_class_gap else 1
        weight, bound = self.feature_weight(), self.settings.clip("feature")
        radius = math.sqrt(bound**2 - weight**2)

        def joint(psi: Params, x: Tensor, y: Tensor) -> Tensor:
            feature = self.classifier.features(psi, x)  # [m, d]
            feature = feature * (radius / torch.linalg.vector_norm(feature, dim=1, keepdim=True)).clamp_max(1)
            counted = torch.cat([feature, torch.full_like(feature[:, :1], weight)], dim=1)  # [m, d + 1]
            blocks = F.one_hot(y if rows > 1 else torch.zeros_like(y), rows).to(counted)  # [m, R]
            return blocks.unsqueeze(2) * counted.unsqueeze(1)

        return [self._plain.means(f"feature, {rows} rows", joint, psi, batch, bound)]

    def label_sum(self, foundation: nn.Module, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return the clipped sum [K_F] of the units' mean foundation probabilities. Private."""
        name = f"label of {foundation} {[tuple(p.shape) for p in foundation.parameters()]}"
        return [self._plain.means(name, lambda _psi, x, _y: foundation(x).softmax(1), {}, batch, 1.0)]

    def confusion_sum(self, theta: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return the clipped sum [K, K] behind (e): an image counts 1 in one cell, a subject the mean of its images. Private."""
        classes = len(self.classifier.classes)

        def logits(theta: Params, x: Tensor, _y: Tensor) -> Tensor:
            return self.classifier.logits(theta, x)

        def cell(theta: Params, x: Tensor, y: Tensor) -> Tensor:
            self.proceed()
            named = logits(theta, x, y).argmax(1)
            return F.one_hot(y * classes + named, classes**2).view(-1, classes, classes).to(x)  # [m, K, K]

        return [self._plain.means("logits", cell, theta, batch, self.settings.clip("confusion"), logits)]

    def feature_weight(self) -> float:
        """Return the constant beside a feature: clip / sqrt(1 + sqrt d).

        It is what makes the expected squared error of sum / count least when the mean feature lies at the clip radius: with
        a^2 the constant's share of clip^2, that error is proportional to d / (1 - a^2) + 1 / a^2.
        """
        return self.settings.clip("feature") / math.sqrt(1 + math.sqrt(self.classifier.feature_dim))

    def release(self, kind: Kind, total: Callable[[Sequence[Tensor]], list[Tensor]]) -> Answer:
        """Charge, draw a batch of this release's own, sum, add noise, divide by a public number."""
        mechanism = self.settings.mechanism(kind)
        sharing = self.settings.plan.sharing(mechanism)
        if sharing is not None and sharing.honest > 1 and not self.audited:
            raise RuntimeError("release (a) of this run leaves in a sum alone: the site's own part of its noise is too little")
        sums = self.drawn(kind, total)
        flat = torch.cat([part.flatten() for part in sums]).cpu().double().numpy()
        noised = mechanism.answer(flat, self.noise) if sharing is None else sharing.answer(flat, mechanism.denominator, self.noise)
        answer = torch.from_numpy(noised).to(self.x.dtype).to(self.x.device)
        parts = torch.split(answer, [part.numel() for part in sums])
        return Answer([a.view(part.shape) for a, part in zip(parts, sums, strict=True)], mechanism)

    def drawn(self, kind: Kind, total: Callable[[Sequence[Tensor]], list[Tensor]]) -> list[Tensor]:
        """Charge, draw a batch and return its clipped sum. Private."""
        mechanism = self.settings.mechanism(kind)
        self.charge(kind, *self.settings.plan.key(mechanism)[:2])
        self.released.append(mechanism)
        # one unit at least is drawn from, so that an empty data set takes the same path
        drawn = self.noise.draw(max(1, len(self.units)), mechanism.q)
        return total([self.units[i] for i in drawn if i < len(self.units)])


class LabelledStepPrivateData:
    """Scope ``labelled-step``: (a) is a release, (b) and (c) are EXACT reads of private images that no epsilon covers."""

    last_loss: None = None

    def __init__(self, released: DPPrivateData, exact: ExactPrivateData) -> None:
        self._released, self._exact = released, exact

    def begin_round(self, rng: torch.Generator, augment_rng: torch.Generator) -> None:
        """Begin the round of both."""
        self._released.begin_round(rng, augment_rng)
        self._exact.begin_round(rng, augment_rng)

    @property
    def released(self) -> list[Mechanism]:
        """The mechanisms that answered since the round began."""
        return self._released.released

    def class_weights(self) -> Tensor:
        """Return public numbers."""
        return self._released.class_weights()

    def class_features(self, psi: Params) -> FeatureMeans:
        """Raise UserError, as end to end."""
        return self._released.class_features(psi)

    def supervised_gradient(self, theta: Params) -> Params:
        """Release (a)."""
        return self._released.supervised_gradient(theta)

    def validation_gradient(self, theta_prime: Params) -> Params:
        """Return the exact gradient: unaccounted."""
        return self._exact.validation_gradient(theta_prime)

    def mean_feature(self, psi: Params) -> FeatureMeans:
        """Return the exact means: unaccounted."""
        return self._exact.mean_feature(psi)

    def foundation_labels(self, foundation: nn.Module) -> Tensor:
        """Return the exact rows: unaccounted."""
        return self._exact.foundation_labels(foundation)


def public_weights(weights: Sequence[float] | None, classes: int) -> Tensor:
    """Return ``privacy.class_weights`` as shares [classes], all alike where they are None; UserError for another number of them."""
    if weights is None:
        return torch.full((classes,), 1 / classes)
    if len(weights) != classes:
        raise UserError(f"privacy.class_weights holds {len(weights)} numbers; the task has {classes} classes, want one each")
    return torch.tensor(weights) / sum(weights)


def meta_keys(classifier: Classifier, meta_params: Literal["norm", "all"]) -> list[str]:
    """Return the names of theta that (b) lives on; those of the head where nothing of the body is trained."""
    theta = classifier.theta()
    body = [name for name in theta if name.startswith("body.")]
    if not body:
        return list(theta)
    if meta_params == "all":
        return body
    norms = [name for name in body if is_norm(classifier.get_submodule(name.rpartition(".")[0]))]
    if not norms:
        raise UserError(f"privacy.meta_params=norm: '{classifier.name}' trains no scales and shifts; set privacy.meta_params=all")
    return norms
