"""The paper's signs of failure, measured at a trained model: do synthetic images reach the data, do views vary, has it collapsed?

For simulations alone, whose data lie on this machine anyway; never under differential privacy, since the numbers are exact.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.federation import parts
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.files import write_json
from mpssl_fed.method.anchor import anchor_set
from mpssl_fed.method.views import Views
from mpssl_fed.runs.model_file import read_model
from mpssl_fed.runs.reader import DIAGNOSIS_FILE, read_config, read_manifest
from mpssl_fed.seeds import torch_rng

IMAGES, IMAGES_OF_LARGE, LARGE = 192, 32, 64  # images of a kind; fewer beyond 64 px, where each costs a second on a CPU
SITES = 4  # whose synthetic images are pooled
NEIGHBOURS = 5  # as in arXiv 2002.09797


def diagnose(folder: Path) -> dict[str, Any] | None:
    """Measure the finished simulation in ``folder``, write ``diagnosis.json`` there and return its content.

    None, and no file, under differential privacy, in a deployment, where no generator took part, or where the features are not
    finite.
    """
    config = read_config(folder)
    if config.privacy.on or config.federation.backend == "deployment" or not (folder / "sites").is_dir():
        return None
    synthetic = _synthetic(folder)
    if synthetic is None:
        return None
    classifier, data = read_model(folder).to(synthetic.device), parts.dataset(config)
    n = len(synthetic)
    order = torch.randperm(len(data.test), generator=torch_rng(config.seed, "diagnosis", "real"))[: 2 * n]
    real, other = data.test.take(order).floats(synthetic.device).chunk(2)
    views = Views(data.flip, classifier.size)
    kinds = {"real": real, "other": other, "synthetic": synthetic, "noise": noise_like(real, config.seed)}
    with torch.no_grad():
        g = {name: _features(classifier.body, x) for name, x in kinds.items()}
        found: dict[str, Any] = {
            "images": n,
            "synthetic": reach(g["real"], g["synthetic"]) | _views(classifier.body, views, synthetic, config.seed),
            "real": reach(g["real"], g["other"]) | _views(classifier.body, views, real, config.seed),
            "noise": reach(g["real"], g["noise"]),
        }
    if not all(math.isfinite(value) for of in ("synthetic", "real", "noise") for value in found[of].values()):
        return None  # the model's features overflow: its accuracy already says that it diverged
    write_json(folder / DIAGNOSIS_FILE, found)
    return found


def reach(real: Tensor, synthetic: Tensor) -> dict[str, float]:
    """Return how features [m, d] of synthetic images lie to features [n, d] of real ones.

    gap: squared distance of the means over the mean squared distance of real features from theirs. coverage: share of real
    images with a synthetic one within the distance of their 5th nearest real neighbour; precision: share of synthetic images
    within that distance of some real one (arXiv 2002.09797, arXiv 1904.06991).
    """
    mean = real.mean(0)
    spread = (real - mean).square().sum(1).mean().clamp_min(1e-12)
    radius = torch.cdist(real, real).kthvalue(min(NEIGHBOURS + 1, len(real)), dim=1).values  # the nearest is the image itself
    inside = torch.cdist(synthetic, real) <= radius  # [m, n]
    return {
        "gap": float((mean - synthetic.mean(0)).square().sum() / spread),
        "coverage": float(inside.any(0).double().mean()),
        "precision": float(inside.any(1).double().mean()),
    }


def noise_like(images: Tensor, seed: int) -> Tensor:
    """Return as many images of independent normal pixels, with each channel's mean and standard deviation, within [-1, 1]."""
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    drawn = torch.randn(images.shape, generator=torch_rng(seed, "diagnosis", "noise"))
    return (drawn.to(images) * std + mean).clamp(-1, 1)


def similarity(weak: Tensor, strong: Tensor) -> dict[str, float]:
    """Return cosines of features [n, d] of two views: of one image (``pair``, mean and spread), of two images (``others``), and
    the effective rank of the weak ones: exp of the entropy of their covariance's normalised eigenvalues (Roy and Vetterli 2007)."""
    cosine = F.normalize(weak, dim=1) @ F.normalize(strong, dim=1).T  # [n, n]
    pair, n = cosine.diagonal(), len(weak)
    variance = torch.linalg.svdvals((weak - weak.mean(0)).double()).square()
    share = variance / variance.sum().clamp_min(1e-30)
    entropy = -(share * share.clamp_min(1e-30).log()).sum()
    return {
        "pair": float(pair.mean()),
        "pair_std": float(pair.std()),
        "others": float((cosine.sum() - pair.sum()) / (n * (n - 1))),
        "rank": math.exp(float(entropy)) if float(variance.sum()) > 1e-20 else 0.0,
    }


def _views(body: Any, views: Views, x: Tensor, seed: int) -> dict[str, float]:
    weak, strong = (view(x, torch_rng(seed, "diagnosis", view.__name__)) for view in (views.weak, views.strong))
    apart = (x - x.roll(1, 0)).square().mean().sqrt().clamp_min(1e-12)
    measured = similarity(_features(body, weak), _features(body, strong))
    return measured | {"change": float((weak - strong).square().mean().sqrt() / apart)}


def _features(body: Any, x: Tensor) -> Tensor:
    return torch.cat([body(part) for part in torch.split(x, 64)]).double().cpu()


def _synthetic(folder: Path) -> Tensor | None:
    """Return synthetic images of the first sites as they drew them at the end, or the generator's own where no site draws any."""
    config = read_config(folder)
    generator = parts.generator(config)
    if generator is None:
        return None
    task, run_id = parts.task(config), read_manifest(folder)["run_id"]
    n = IMAGES_OF_LARGE if max(task.size, generator.size) > LARGE else IMAGES
    sites = min(SITES, config.federation.sites)
    pooled = []
    for site in range(sites):
        latents = SiteState(folder / "sites" / str(site)).latest(run_id)
        if latents is not None:
            learner = build_site_learner(config, parts.simulated(config, site), site)
            learner.load_state(latents)
            drawn = learner.samples(n // sites)
            pooled += [] if drawn is None else [drawn[0].detach().float()]
    return torch.cat(pooled) if pooled else anchor_set(generator, n, task.channels, task.size, config.seed)
