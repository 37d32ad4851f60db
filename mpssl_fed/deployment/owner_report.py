"""A site's own report: what its owner alone may see (labels, synthetic samples, what was spent over the data's life)."""

from __future__ import annotations

import datetime
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.federation import parts
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.page import picture, write_page
from mpssl_fed.privacy.filter import lifetime_alone, lifetime_epsilon, limit_of, rounded_up
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import LedgerFiles
from mpssl_fed.privacy.policy import Policy
from mpssl_fed.privacy.shared.history import shared_steps

REPORT, SHOWN = "site-report.html", 32
TERMS = {
    "epsilon": "Bound on what anyone can learn about one unit from all that left this site: below 1 strong, above 10 weak.",
    "delta": "Probability with which the bound of epsilon may fail.",
    "unit": "What the guarantee hides: one image, or all images of one subject.",
    "release": "A noised answer about these images, recorded in this site's ledger before it was computed.",
    "round": "The server sends its model, this site trains it on its images and sends the weights back.",
    "synthetic images": "What the public generator drew here at the end of the last round; they stay here.",
}


def lifetime(ledger: Path | Ledger, policy: Policy) -> dict[str, float | int | None]:
    """Return ``{"epsilon": spent over the data set's life, "max_epsilon", "delta", "releases"}``, and ``"epsilon_alone"``, what is
    left if no other site was honest, where noise was shared.

    epsilon is None where the data were read outside the accounting once: no number covers that.
    """
    limit: dict[str, float | int | None] = {"max_epsilon": policy.max_epsilon, "delta": policy.delta}
    ledger = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    if ledger.files.absent:
        return {"epsilon": 0.0, **limit, "releases": 0}
    spent = ledger.spent(policy.dataset)
    epsilon = lifetime_epsilon(limit_of(policy), spent)
    if shared_steps(spent.history):
        limit["epsilon_alone"] = lifetime_alone(limit_of(policy), spent)
    return {"epsilon": epsilon, **limit, "releases": sum(spent.history.values())}


def whereabouts(files: LedgerFiles) -> str:
    """Return where the ledger's head lives, in words for its owner."""
    return "beside the ledger: one backup put back rolls both back (see --ledger-head)" if files.head_beside else str(files.head)


@dataclass(frozen=True)
class Owned:
    """What a report is about: the site's folder, number, images, policy and ledger, warnings its owner accepted, and the key by
    which it holds images out, where it does."""

    state: Path
    number: int
    images: Images
    policy: Policy
    ledger: Path | Ledger
    warnings: tuple[str, ...] = ()
    key: bytes = b""


def write_site_report(site: Owned, config: Config, run_id: str) -> Path:
    """Write ``site-report.html`` (0600) into the site's state folder; one file, no network."""
    assert config.data.task is not None
    classes, state = config.data.task.classes, SiteState(site.state / "rounds")
    counts = torch.bincount(site.images.y, minlength=len(classes)).tolist()
    life = lifetime(site.ledger, site.policy)
    samples = _samples(state, config, run_id, site)
    written = datetime.datetime.now(datetime.UTC)
    return write_page(
        site.state / REPORT,
        "site.html",
        mode=0o600,
        title=f"Site {site.number}: {site.policy.dataset}",
        subtitle="For the owner of this site alone: nothing on this page has left it.",
        finding=_spent(life, site.policy),
        warnings=[f"{words[:1].upper()}{words[1:]}." for words in site.warnings],  # lines of a log, sentences on a page
        facts=[
            ("written", f"{written:%Y-%m-%d %H:%M} UTC"),
            ("run", run_id),
            ("last round answered", f"{_last_round(state, run_id)} of {config.federation.rounds}"),
            ("labelled images", f"{sum(counts):,}"),
            ("releases over the data's life", f"{life['releases']:,}"),
        ],
        labels=[(name, count, 100 * count / max(*counts, 1)) for name, count in zip(classes, counts, strict=True)],
        samples=None if samples is None else picture(_png(samples), "synthetic images"),
        terms=TERMS.items(),
    )


def _spent(life: dict[str, float | int | None], policy: Policy) -> str:
    unit = f"per {policy.unit}, at delta {policy.delta:g}"
    if life["epsilon"] is None:
        return f"Data set “{policy.dataset}” was read without noise at least once: its epsilon is infinite ({unit})."
    assert isinstance(life["epsilon"], float)
    shown = rounded_up(life["epsilon"])
    own = f" Epsilon {rounded_up(life.get('epsilon_alone'))} if no other site in the sums that covered it was honest."
    trust = own if "epsilon_alone" in life else ""
    return f"Data set “{policy.dataset}”: epsilon {shown} of {policy.max_epsilon:g} spent over its life, {unit}.{trust}"


def _last_round(state: SiteState, run_id: str) -> int:
    """Return the number of the last round that the site answered in a run, 0 before the first."""
    return max(state.rounds(run_id), default=0)


def _samples(state: SiteState, config: Config, run_id: str, site: Owned) -> Tensor | None:
    """Return synthetic images from the latents of the last round, [n, 3, S, S] in [-1, 1]; None without a generator."""
    latents = state.latest(run_id)
    if latents is None:
        return None
    made = parts.own(config, site.images, parts.generator(config), site.key)
    learner = build_site_learner(config, made, site.number)
    learner.load_state(latents)
    found = learner.samples(SHOWN)
    return None if found is None else found[0]


def _png(images: Tensor) -> bytes:
    from torchvision.transforms.functional import to_pil_image  # here: importing it takes seconds
    from torchvision.utils import make_grid

    grid = make_grid(images.detach().cpu().float(), nrow=8, normalize=True, value_range=(-1, 1))
    buffer = io.BytesIO()
    to_pil_image(grid).save(buffer, "PNG")
    return buffer.getvalue()
