"""Subjects stay whole: which of their images are labelled, and which site gets whom.

Partitioners say how many images of each class a site is to hold. Where that tears no subject it is what happens, so that images
without subjects, or with a subject each, are dealt as they always were; else whole subjects come as near to it as they can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.data.classes import UnfitClassError
from mpssl_fed.data.subjects import numbered
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Aim:
    """What a deal of subjects must keep to. name: the partitioner's; least: images of each site that gets any; exact: a site holds
    just the classes that the partitioner gave it; at: subjects that stand at a site already (then nothing is refused)."""

    name: str
    least: int = 1
    exact: bool = False
    at: Mapping[str, int] | None = None


def choose_by_subject(
    members: Sequence[np.ndarray], wanted: Sequence[int], pace: Sequence[int], subject: np.ndarray, spread: int
) -> list[Ints]:
    """Return ``wanted[c]`` of each class' images ``members[c]``, in a random order: of few subjects, and alike of each.

    A class asks in turn for one more image: of those subjects that have given it the fewest the first in its order, but where
    ``spread`` subjects are labelled it prefers one of them, and before that a new one. So a larger choice contains every smaller
    one, a subject that has one image of each class gives all of them, and as many sites as ``spread`` can be given somebody.
    pace: 1 for numbers of labels; for shares the size of each class, so that all of them come to the same share at once.
    """
    labelled, known = np.zeros(int(subject.max(initial=-1)) + 1, dtype=bool), 0
    queues = [_Queue(mine, subject) for mine in members]
    turns = [((2 * j - 1) / (2 * pace[c]) if j > 1 else 0.0, j % 2, c) for c, many in enumerate(wanted) for j in range(1, many + 1)]
    chosen: list[list[int]] = [[] for _ in members]
    for _, _, c in sorted(turns):  # an even j first: round() takes half a label to the even number
        image = queues[c].next(labelled, prefer=known >= spread)
        known += not labelled[subject[image]]
        labelled[subject[image]] = True
        chosen[c].append(image)
    return [np.array(images, dtype=np.int64) for images in chosen]


class _Queue:
    """The images of one class, to be asked of its subjects."""

    def __init__(self, members: np.ndarray, subject: np.ndarray) -> None:
        first: dict[int, list[int]] = {}
        for image in members.tolist():
            first.setdefault(int(subject[image]), []).append(image)
        self.subjects = np.array(list(first), dtype=np.int64)
        self.images = list(first.values())
        self.given = np.zeros(len(first), dtype=np.int64)
        self.size = np.array([len(images) for images in self.images], dtype=np.int64)

    def next(self, labelled: NDArray[np.bool_], *, prefer: bool) -> int:
        """Return the next image; prefer: of labelled subjects rather than of new ones."""
        cost = 2 * self.given + (labelled[self.subjects] != prefer)
        i = int(np.where(self.given < self.size, cost, np.iinfo(np.int64).max).argmin())
        self.given[i] += 1
        image: int = self.images[i][self.given[i] - 1]
        return image


def deal_whole(
    y: np.ndarray, subjects: Sequence[str], parts: Sequence[np.ndarray], aim: Aim, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return parts that hold whole subjects and come near to the images of each class that ``parts`` hold; ``parts`` where they do.

    Largest first, each subject goes where it lowers the squared distance to what is asked most, classes counting alike; a subject
    of one class only to sites that are to have it, and as long as there are enough subjects every site gets one. UserError where
    whole subjects cannot keep to ``aim``, with what would fit.
    """
    of, place = numbered(subjects), np.empty(len(y), dtype=np.int64)
    for site, part in enumerate(parts):
        place[part] = site
    names = list(dict.fromkeys(subjects))
    fixed = np.array([(aim.at or {}).get(name, -1) for name in names], dtype=np.int64)
    lowest, highest = (np.full(len(names), start) for start in (len(parts), -1))
    np.minimum.at(lowest, of, place)
    np.maximum.at(highest, of, place)
    if (lowest == highest).all() and ((fixed < 0) | (fixed == lowest)).all():
        return list(parts)
    labels, label = np.unique(y, return_inverse=True)
    table = _Table(np.zeros((len(names), len(labels)), np.int64), np.zeros((len(parts), len(labels)), np.int64), names, labels)
    np.add.at(table.subjects, (of, label), 1)
    np.add.at(table.asked, (place, label), 1)
    site_of = _greedy(table, fixed, aim, rng)
    if aim.at is None:
        site_of = _fill_up(table, site_of, aim)
        if aim.exact:
            _refuse_other_classes(table, site_of, aim)
    return [np.flatnonzero(site_of[of] == site) for site in range(len(parts))]


@dataclass(frozen=True, eq=False)
class _Table:
    """subjects [m, K]: images of each class that a subject has; asked [sites, K]: how many a site is to hold."""

    subjects: Ints
    asked: Ints
    names: list[str]
    labels: np.ndarray

    @property
    def sizes(self) -> Ints:
        """Images of each subject [m]."""
        sizes: Ints = self.subjects.sum(1)
        return sizes

    def held(self, site_of: Ints) -> Ints:
        """Return what each site holds [sites, K]."""
        held = np.zeros_like(self.asked)
        np.add.at(held, site_of[site_of >= 0], self.subjects[site_of >= 0])
        return held

    def gain(self, subject: int, held: Ints) -> NDArray[np.float64]:
        """Return by how much the subject lowers each site's squared distance to what is asked [sites]."""
        mine = self.subjects[subject]
        gain: NDArray[np.float64] = ((2 * (self.asked - held) - mine) * mine / np.maximum(1, self.asked.sum(0))).sum(1)
        return gain


def _greedy(table: _Table, fixed: Ints, aim: Aim, rng: np.random.Generator) -> Ints:
    site_of, held, wanting = fixed.copy(), table.held(fixed), table.asked.sum(1) > 0
    order = rng.permutation(len(fixed))
    order = order[np.argsort(-table.sizes[order], kind="stable")]
    order = order[fixed[order] < 0]
    if aim.at is None and aim.least > 0 and len(order) < wanting.sum():
        raise UserError(
            f"{aim.name} over {wanting.sum()} sites: subjects stay whole, and the {table.asked.sum()} labelled images are of "
            f"{len(order)} subject(s); {len(order)} site(s) would fit, or labels of more subjects"
        )
    for left, subject in zip(range(len(order), 0, -1), order.tolist(), strict=True):
        mine = table.subjects[subject] > 0
        fits = (table.asked[:, mine] > 0).all(1)
        allowed = fits if fits.any() and (aim.exact or mine.sum() == 1) else wanting
        empty = wanting & (held.sum(1) == 0)
        if empty.sum() >= left:
            allowed = allowed & empty if (allowed & empty).any() else empty
        gain = np.where(allowed, table.gain(subject, held), -np.inf)
        best = np.flatnonzero(gain >= gain.max() - 1e-9)
        site = int(best[held[best][:, mine].sum(1).argmin()])
        site_of[subject] = site
        held[site] += table.subjects[subject]
    return site_of


def _fill_up(table: _Table, site_of: Ints, aim: Aim) -> Ints:
    """Move subjects from sites that can spare them to those with fewer than ``aim.least`` images."""
    sizes, wanting = table.sizes, table.asked.sum(1) > 0
    while True:
        held = table.held(site_of)
        total = np.where(wanting, held.sum(1), np.iinfo(np.int64).max)
        poor = int(total.argmin())
        if total[poor] >= aim.least:
            return site_of
        spare = np.flatnonzero((total[site_of] - sizes >= aim.least) & (site_of != poor))
        if not len(spare):
            break
        moved = max(spare.tolist(), key=lambda subject: table.gain(subject, held)[poor])
        site_of[moved] = poor
    load = np.where(wanting, 0, np.iinfo(np.int64).max)
    for subject in np.argsort(-sizes, kind="stable").tolist():  # as even as they go, whatever the classes
        site_of[subject] = load.argmin()
        load[site_of[subject]] += sizes[subject]
    if load.min() >= aim.least:
        return site_of
    raise UserError(
        f"{aim.name} with at least {aim.least} image(s) a site over {wanting.sum()} sites: subjects stay whole, and as evenly as "
        f"they go, the {len(sizes)} of them leave a site {load.min()}; {load.min()} image(s) a site, or fewer sites, would fit"
    )


def _refuse_other_classes(table: _Table, site_of: Ints, aim: Aim) -> None:
    """Raise UserError where a site holds other classes than it is to hold."""
    if np.array_equal(table.held(site_of) > 0, table.asked > 0):
        return
    holders, having = (table.asked > 0).sum(0), (table.subjects > 0).sum(0)
    for label, sites, subjects in zip(table.labels, holders, having, strict=True):
        if subjects < sites:
            raise UnfitClassError(
                label,
                f"{aim.name} puts {{cls}} at {sites} sites, but subjects stay whole, and {subjects} have labelled images of it; at "
                f"least {sites} subjects of each class, or fewer sites, would fit",
            )
    most = int((table.subjects > 0).sum(1).argmax())
    raise UserError(
        f"{aim.name}: subjects stay whole, and '{shown(table.names[most])}' has labelled images of "
        f"{(table.subjects[most] > 0).sum()} classes, so that sites would hold other classes than they are to; "
        "data.partition.name=iid or dirichlet would fit"
    )
