"""A site's own report: what its owner alone may see (labels, synthetic samples, what was spent over the data's life)."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.files import write_atomic
from mpssl_fed.privacy.filter import RenyiFilter, lifetime_epsilon, rounded_up
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import Policy

REPORT, SHOWN = "site-report.html", 32
STYLE = "body{font:16px/1.5 system-ui;max-width:48em;margin:2em auto;padding:0 1em}td{padding:0 1em 0 0}img{width:100%}"


def lifetime(ledger: Path, policy: Policy) -> dict[str, float | int | None]:
    """Return ``{"epsilon": spent over the data set's life, "max_epsilon", "delta", "releases"}``.

    epsilon is None where the data were read outside the accounting once: no number covers that.
    """
    limit = {"max_epsilon": policy.max_epsilon, "delta": policy.delta}
    if not ledger.is_file():
        return {"epsilon": 0.0, **limit, "releases": 0}
    spent = Ledger(ledger).spent(policy.dataset)
    epsilon = lifetime_epsilon(RenyiFilter(policy.max_epsilon, policy.delta), spent)
    return {"epsilon": epsilon, **limit, "releases": sum(spent.history.values())}


@dataclass(frozen=True)
class Owned:
    """What a report is about: the site's folder, number, images, policy and ledger, and warnings its owner accepted."""

    state: Path
    number: int
    images: Images
    policy: Policy
    ledger: Path
    warnings: tuple[str, ...] = ()


def write_site_report(site: Owned, config: Config, run_id: str) -> Path:
    """Write ``site-report.html`` (0600) into the site's state folder; one file, no network."""
    assert config.data.task is not None
    classes = config.data.task.classes
    counts = torch.bincount(site.images.y, minlength=len(classes)).tolist()
    parts = [
        f"<h1>Site {site.number}</h1><p>For the owner of this site alone: nothing on this page has left it.</p>",
        f"<h2>Privacy</h2><p>{_spent(lifetime(site.ledger, site.policy), site.policy)}</p>",
        *(f"<p><strong>{html.escape(warning)}</strong></p>" for warning in site.warnings),
        f"<h2>Labelled images</h2>{_bars(classes, counts)}",
    ]
    samples = _samples(site.state, config, run_id, site.number)
    if samples is not None:
        parts.append(f'<h2>Synthetic images</h2><img alt="Synthetic images of the last round" src="{_data_url(samples)}">')
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Site {site.number}</title><style>{STYLE}</style>'
    page = f"{head}{''.join(parts)}</html>\n"
    return write_atomic(site.state / REPORT, page, mode=0o600)


def _spent(life: dict[str, float | int | None], policy: Policy) -> str:
    unit = f"per {policy.unit}, at delta {policy.delta:g}"
    if life["epsilon"] is None:
        return f"Data set “{html.escape(policy.dataset)}” was read without noise at least once: its epsilon is infinite ({unit})."
    assert isinstance(life["epsilon"], float)
    shown = rounded_up(life["epsilon"])
    return f"Data set “{html.escape(policy.dataset)}”: epsilon {shown} of {policy.max_epsilon:g} spent over its life, {unit}."


def _bars(classes: tuple[str, ...], counts: list[int]) -> str:
    most, rows = max(*counts, 1), []
    for name, count in zip(classes, counts, strict=True):
        rect = f'<rect width="{320 * count / most:.0f}" height="14" fill="#3b6ea5"/>'
        bar = f'<svg width="320" height="14" role="img" aria-label="{count}">{rect}</svg>'
        rows.append(f"<tr><td>{html.escape(name)}<td>{bar}<td>{count}")
    return f"<table>{''.join(rows)}</table>"


def _samples(state: Path, config: Config, run_id: str, site: int) -> Tensor | None:
    """Return synthetic images from the latents of the last round, [n, 3, S, S] in [-1, 1]; None without a generator."""
    latents = SiteState(state / "rounds").latest(run_id)
    if latents is None:
        return None
    learner = build_site_learner(config, site)
    learner.load_state(latents)
    found = learner.samples(SHOWN)
    return None if found is None else found[0]


def _data_url(images: Tensor) -> str:
    from torchvision.transforms.functional import to_pil_image  # here: importing it takes seconds
    from torchvision.utils import make_grid

    grid = make_grid(images.detach().cpu().float(), nrow=8, normalize=True, value_range=(-1, 1))
    buffer = io.BytesIO()
    to_pil_image(grid).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
