"""Gradient inversion: what an image looks like that an attacker rebuilds from one update, plain or private."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.data.datasets import Images
from mpssl_fed.method.supervised import supervised_loss
from mpssl_fed.models import Classifier, Params
from mpssl_fed.seeds import torch_rng

STEP = 0.05
SMOOTHNESS = 1e-1
"""Weight of total variation: pictures are smooth, noise is not."""


@dataclass(frozen=True)
class Inversion:
    """One attempt. picture: [C, S, S] in [-1, 1]; similarity: correlation of its pixels with the image's, 1 for the same and
    about 0 for an unrelated one; gradient_similarity: cosine of the gradient that the picture has and the one observed."""

    picture: Tensor
    similarity: float
    gradient_similarity: float


def invert(
    classifier: Classifier,
    observed: Params,
    image: Tensor,
    label: int,
    iterations: int = 300,
    seed: int = 0,
) -> Inversion:
    """Return what matching the ``observed`` gradient finds: cosine, signed Adam, total variation (arXiv 2003.14053).

    classifier: at the weights that the update started from; observed: gradient, exact or released, keyed like theta; image
    [C, S, S]: only to measure the similarity; label: known to the attacker, as it can be read off the head's gradient. Of a
    single image a public weight of its class scales the gradient alone, so an attacker who knows it finds the same picture.
    """
    classifier.eval()
    theta = {name: p.detach().requires_grad_() for name, p in classifier.theta().items()}
    target = torch.cat([observed[name].flatten() for name in theta])
    y = torch.tensor([label], device=image.device)
    x = torch.randn(1, *image.shape, generator=torch_rng(seed, "inversion")).to(image).mul_(0.2).requires_grad_()
    adam = torch.optim.Adam([x], lr=STEP)
    cosine = torch.zeros(())
    for t in range(iterations):
        loss = F.cross_entropy(classifier.logits(theta, x), y)
        found = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        cosine = F.cosine_similarity(torch.cat([g.flatten() for g in found]), target, dim=0)
        (gradient,) = torch.autograd.grad(1 - cosine + SMOOTHNESS * total_variation(x), x)
        x.grad = gradient.sign()
        for group in adam.param_groups:
            group["lr"] = STEP * (1.0 if t < iterations * 0.5 else 0.3 if t < iterations * 0.8 else 0.1)
        adam.step()
        with torch.no_grad():
            x.clamp_(-1, 1)
    picture = x.detach()[0]
    return Inversion(picture, correlation(picture, image), float(cosine.detach()))


def total_variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of x [n, C, H, W]."""
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def correlation(one: Tensor, other: Tensor) -> float:
    """Return the correlation of the pixels of two images [C, S, S]; 0 where one of them is flat."""
    a, b = (x.double().flatten() - x.double().mean() for x in (one, other))
    return float(F.cosine_similarity(a, b, dim=0))


def exact_gradient(classifier: Classifier, images: Images, weights: Tensor | None = None) -> Params:
    """Return the gradient of the loss on ``images`` that a site trains by: one plain update. weights: of each class [K], public."""
    theta = {name: p.detach().requires_grad_() for name, p in classifier.theta().items()}
    where = classifier.head.weight.device
    loss = supervised_loss(classifier.logits(theta, images.floats(where)), images.y.to(where), weights)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
