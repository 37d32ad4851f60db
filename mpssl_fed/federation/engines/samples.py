"""What only a simulation may show: who holds which labels, and pictures of each site's synthetic images."""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.federation.whole import subjects_of
from mpssl_fed.files import write_atomic, write_json
from mpssl_fed.runs.run_directory import RunDirectory
from mpssl_fed.seeds import torch_rng

SHOWN_SITES = 16
SHOWN_IMAGES = 32
COLUMNS = 8


def write_labels(run: RunDirectory) -> None:
    """Write labels.json, the images of each class at each simulated site; the manifest says how many subjects there are, and that
    none of them is at two sites or both trained and tested on."""
    write_json(run.folder / "labels.json", parts.label_counts(run.config))
    run.update_manifest(subjects=subjects_of(run.config))


def write_samples(run: RunDirectory) -> None:
    """Write ``sites/ID/samples.png`` for the first sites, and the generator's own random images as ``generator.png``.

    A method without a generator has neither.
    """
    if parts.generator(run.config) is None:
        return
    write_atomic(run.folder / "generator.png", _png(_random_images(run.config)))
    for site in range(min(SHOWN_SITES, run.config.federation.sites)):
        latents = SiteState(run.sites / str(site)).latest(run.run_id)
        if latents is None:
            continue
        learner = build_site_learner(run.config, parts.simulated(run.config, site), site)
        learner.load_state(latents)
        samples = learner.samples(SHOWN_IMAGES)
        if samples is not None:
            write_atomic(run.sites / str(site) / "samples.png", _png(samples[0]))


def _random_images(config: Config) -> Tensor:
    """Return images [n, 3, S, S] of random z and evenly spread foundation labels."""
    generator = parts.generator(config)
    assert generator is not None
    rng = torch_rng(config.seed, "generator.png")
    z = generator.sample_z(SHOWN_IMAGES, rng)
    labels = torch.randint(len(generator.classes), (SHOWN_IMAGES,), generator=rng)
    with torch.no_grad():
        images: Tensor = generator(z, F.one_hot(labels, len(generator.classes)).to(z))
    return images


def _png(images: Tensor) -> bytes:
    """Return images [n, C, H, W] in [-1, 1] as one PNG, eight a row."""
    from torchvision.transforms.functional import to_pil_image  # here: seconds that a site, which draws nothing, need not spend
    from torchvision.utils import make_grid

    grid = make_grid(images.detach().float().cpu().clamp(-1, 1) / 2 + 0.5, nrow=COLUMNS, padding=1, pad_value=1.0)
    file = io.BytesIO()
    to_pil_image(grid).save(file, format="PNG", optimize=True)
    return file.getvalue()
