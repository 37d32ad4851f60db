"""Which labelled images there are, and which site holds which of them: disjoint, nothing dropped, fixed by a seed.

Where images name subjects, these stay whole (:mod:`mpssl_fed.data.whole`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.data.classes import UnfitClassError
from mpssl_fed.data.label_table import describe_partition, label_table
from mpssl_fed.data.subjects import numbered
from mpssl_fed.data.whole import Aim, choose_by_subject, deal_whole
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.registry import Registry
from mpssl_fed.seeds import numpy_rng

__all__ = [
    "PARTITIONERS", "UnfitClassError", "choose_labelled", "describe_partition", "label_table", "partition",
]  # fmt: skip

Partitioner = Callable[..., list[np.ndarray]]
"""(y [n], sites, rng, **options) -> one index array per site; UserError where the options cannot be met."""

COLUMN = "column"
"""The partitioner that deals each image to the site that the data name for it."""

PARTITIONERS: Registry[Partitioner] = Registry("partitioners")

HOLDERS, LEAST = "holders", "min_per_site"
"""What a partitioner may take: each image's site, where the data name one; how many images a site gets at least."""
EXACT = frozenset({"pathological"})
"""Partitioners whose sites hold just the classes that they were given, or nothing is dealt."""


@dataclass(frozen=True, eq=False)
class Standing:
    """Who stands somewhere already. at: subject -> its site, and nothing but that is then insisted on; holders: the number of each
    image's site [n], where the data name one."""

    at: Mapping[str, int] | None = None
    holders: np.ndarray | None = None


NOWHERE = Standing()


def choose_labelled(
    y: np.ndarray,
    per_class: int | None,
    fraction: float | None,
    seed: int,
    subjects: Sequence[str] | None = None,
    spread: int = 1,
) -> np.ndarray:
    """Return the sorted indices of the labelled images: ``per_class`` of each class, or a ``fraction`` of each, or all.

    A fraction keeps at least one image a class. For one seed a larger choice contains every smaller one, so curves over
    the number of labels compare like with like. With ``subjects`` [n] the numbers are the same and the images of as few subjects
    as give all classes alike (:func:`choose_by_subject`), though of ``spread``, the sites that each need one, where there are.
    Raises UserError if a class has too few images.
    """
    if per_class is not None and fraction is not None:
        raise UserError("labels per class and a label fraction are both set; give one of them")
    if per_class is not None and per_class < 1:
        raise UserError(f"data.labels_per_class is {per_class}; at least 1 is needed")
    if fraction is not None and not 0 < fraction <= 1:
        raise UserError(f"data.label_fraction is {fraction}; it must be above 0 and at most 1")
    y, found, number = np.asarray(y), [], []
    for label in np.unique(y).tolist():
        members = numpy_rng(seed, "choose-labelled", label).permutation(np.flatnonzero(y == label))
        wanted = len(members) if per_class is None else per_class
        if fraction is not None:
            wanted = max(1, round(fraction * len(members)))
        if wanted > len(members):
            raise UnfitClassError(
                label,
                f"{wanted} labelled images of {{cls}} are asked for in all, but it has {len(members)}; at most "
                f"{int(np.unique(y, return_counts=True)[1].min())} of each class would fit",
            )
        found.append(members)
        number.append(wanted)
    if subjects is None or number == [len(members) for members in found]:
        chosen = [members[:wanted] for members, wanted in zip(found, number, strict=True)]
    else:
        pace = [1 if fraction is None else len(members) for members in found]
        chosen = choose_by_subject(found, number, pace, numbered(subjects), spread)
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def partition(
    y: np.ndarray,
    sites: int,
    name: str,
    seed: int,
    subjects: Sequence[str] | None = None,
    standing: Standing = NOWHERE,
    **params: Any,
) -> list[np.ndarray]:
    """Return each site's sorted indices into ``y`` [n]: disjoint, nothing dropped, the same for the same seed.

    With ``subjects`` [n] each stays whole: sites come as near as subjects let them to what the partitioner, which knows nothing of
    subjects, gave them. ``column`` deals by ``standing.holders`` and tears whom the data tear. Raises UserError for an unknown
    partitioner or option, and for demands that cannot be met, saying what would fit.
    """
    y, partitioner = np.asarray(y), PARTITIONERS[name]
    known = inspect.signature(partitioner).parameters
    options = [option for option in list(known)[3:] if option != HOLDERS]
    for key in params:
        if key not in options:
            others = ", ".join(options) or "none"
            raise UserError(f"partitioner '{name}' has no option '{key}'.{nearest(key, options)} Known: {others}")
    if HOLDERS in known:
        params[HOLDERS] = standing.holders
    if sites < 1:
        raise UserError(f"federation.sites is {sites}; at least 1 is needed")
    parts = [np.sort(part) for part in partitioner(y, sites, numpy_rng(seed, "partition", name), **params)]
    if len(parts) != sites or not np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(y))):
        raise UserError(f"partitioner '{name}' does not deal each of the {len(y)} images to exactly one of {sites} sites")
    if subjects is None or name == COLUMN or not len(y):
        return parts
    least = params.get(LEAST, known[LEAST].default) if LEAST in known else 1
    aim = Aim(name, least, name in EXACT, standing.at)
    return deal_whole(y, subjects, parts, aim, numpy_rng(seed, "partition", name, "subjects"))


@PARTITIONERS.add(COLUMN)
def _column(y: np.ndarray, sites: int, rng: np.random.Generator, *, holders: np.ndarray | None = None) -> list[np.ndarray]:  # noqa: ARG001
    """Give each image to the site that the data name for it."""
    if holders is None:
        raise UserError(
            "data.partition.name=column deals by the column site of a list (data.name=image-csv); these data name no site"
        )
    return [np.flatnonzero(holders == site) for site in range(sites)]


@PARTITIONERS.add("iid")
def _iid(y: np.ndarray, sites: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal each class like cards: sites differ by at most one image in size, and in each class."""
    _enough(len(y), sites, 1, "iid")
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    return [order[site::sites] for site in rng.permutation(sites)]


@PARTITIONERS.add("dirichlet")
def _dirichlet(y: np.ndarray, sites: int, rng: np.random.Generator, alpha: float = 0.3, min_per_site: int = 1) -> list[np.ndarray]:
    """Split each class by shares ~ Dirichlet(alpha) (arXiv 1909.06335); the largest sites then fill up the too small."""
    if not alpha > 0:
        raise UserError(f"dirichlet: alpha is {alpha}; it must be above 0 (small is skewed, 100 is nearly even)")
    _enough(len(y), sites, min_per_site, "dirichlet")
    parts: list[list[int]] = [[] for _ in range(sites)]
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        sizes = _apportion(_dirichlet_shares(alpha, sites, rng), len(members))
        for part, piece in zip(parts, np.split(members, np.cumsum(sizes)[:-1]), strict=True):
            part.extend(piece.tolist())
    while len(smallest := min(parts, key=len)) < min_per_site:
        largest = max(parts, key=len)
        smallest.append(largest.pop(int(rng.integers(len(largest)))))
    return [np.array(part, dtype=np.int64) for part in parts]


@PARTITIONERS.add("pathological")
def _pathological(y: np.ndarray, sites: int, rng: np.random.Generator, classes_per_site: int = 2) -> list[np.ndarray]:
    """Give each site ``classes_per_site`` classes (after arXiv 1602.05629): a shuffled cycle of classes, dealt in turn.

    With sites x classes_per_site equal to the number of classes, each class lives at one site alone.
    """
    labels, counts = np.unique(y, return_counts=True)
    k, classes = classes_per_site, len(labels)
    if not 1 <= k <= classes:
        raise UserError(f"pathological: classes_per_site is {k}; with {classes} classes, 1 to {classes} would fit")
    if sites * k < classes:
        raise UserError(
            f"pathological with {k} classes per site over {sites} sites covers at most {sites * k} of {classes} classes; "
            f"at least {-(-classes // sites)} classes per site or {-(-classes // k)} sites would fit"
        )
    cycle = rng.permutation(classes)
    holders: list[list[int]] = [[] for _ in labels]
    for slot in range(sites * k):
        holders[cycle[slot % classes]].append(slot // k)
    parts: list[list[np.ndarray]] = [[] for _ in range(sites)]
    for label, count, held_by in zip(labels, counts, holders, strict=True):
        if count < len(held_by):
            raise UnfitClassError(
                label,
                f"pathological with {k} classes per site over {sites} sites puts {{cls}} at {len(held_by)} sites, but "
                f"it has {count} image(s); at least {len(held_by)} of each class, or fewer sites, would fit",
            )
        for site, piece in zip(held_by, np.array_split(rng.permutation(np.flatnonzero(y == label)), len(held_by)), strict=True):
            parts[site].append(piece)
    return [np.concatenate(part) for part in parts]


@PARTITIONERS.add("quantity")
def _quantity(y: np.ndarray, sites: int, rng: np.random.Generator, skew: float = 1.0, min_per_site: int = 1) -> list[np.ndarray]:
    """Site sizes fall as rank^-skew above ``min_per_site`` (0: even, 1: Zipf); labels are drawn at random."""
    if not 0 <= skew <= 10:
        raise UserError(f"quantity: skew is {skew}; it must be 0 (even) to 10")
    _enough(len(y), sites, min_per_site, "quantity")
    shares = np.arange(1, sites + 1, dtype=np.float64) ** -skew
    sizes = rng.permutation(min_per_site + _apportion(shares / shares.sum(), len(y) - sites * min_per_site))
    return np.split(rng.permutation(len(y)), np.cumsum(sizes)[:-1])


def _dirichlet_shares(alpha: float, sites: int, rng: np.random.Generator) -> np.ndarray:
    shares = rng.dirichlet(np.full(sites, alpha))
    # A tiny alpha underflows to 0/0; its limit gives all to one site.
    return shares if np.isfinite(shares).all() and shares.sum() > 0 else np.eye(sites)[rng.integers(sites)]


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers near shares x total that sum to total, by largest remainder."""
    exact = shares * total
    sizes: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: total - sizes.sum()]] += 1
    return sizes


def _enough(images: int, sites: int, least: int, name: str) -> None:
    if least < 0:
        raise UserError(f"{name}: min_per_site is {least}; it must be 0 or more")
    if images < sites * max(least, 0):
        fewer = f" or {images // sites} image(s) a site" if images >= sites else ""
        raise UserError(
            f"{name} with at least {least} image(s) a site over {sites} sites needs {sites * least} labelled images, but "
            f"there are {images}; {images // least} sites{fewer} would fit"
        )
