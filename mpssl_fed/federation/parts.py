"""The parts that a site or server is given, made from a config once and passed along. What is kept here for a next time follows
from its key alone and is never changed; nothing that a site learnt or owns is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from mpssl_fed.config import Config, from_json
from mpssl_fed.config.data import AgreedWindow, Task, plain
from mpssl_fed.data.datasets import Dataset, Images, load_dataset, validation_split
from mpssl_fed.data.formats.dicom import PATIENT_ID
from mpssl_fed.data.partition import COLUMN, Standing, UnfitClassError, choose_labelled, partition
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.site_csv import natural_order
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.sides import parted, split_key
from mpssl_fed.generators.base import Generator, load_generator
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Architecture, Classifier, build_classifier
from mpssl_fed.names import shown, some

MOST_KNOWN = 8
NO_DATA = "none"
"""``data.name`` of a server that holds no images at all: the sites train, nobody tests."""


def simulated(config: Config, site: int, classifier: Classifier | None = None) -> Parts:
    """Return the parts of a simulated site: its share of the data set that the config names, around ``classifier`` or a new one."""
    classifier = classifier or initial_classifier(config)
    flip = dataset(config).flip if config.data.task is None else config.data.task.flip
    made = Parts(labelled(config, site), classifier, generator(config), flip, unlabeled(config, site))
    return parted(config, made, split_key(config, site) if config.federation.evaluate_at_sites.times else b"")


def own(config: Config, images: Images, generator: Generator | None, key: bytes = b"") -> Parts:
    """Return the parts of a site that brings its own images and generator, whatever data set the config names.

    key: the site's own, which decides what it holds out. Refusal ``policy`` for a source of real unlabeled images: the site was
    asked for none.
    """
    if config.method.source == "real":
        raise Refusal("policy")
    return parted(config, Parts(images, initial_classifier(config), generator, task(config).flip), key)


def device(config: Config) -> torch.device:
    """Return the device of ``runtime.device``; auto: cuda, else mps, else cpu. UserError for one that is not here."""
    name: str = config.runtime.device
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, available in here.items() if available), "cpu")
    elif not here.get(name, True):
        raise UserError(f"runtime.device={name}: this machine has no such device, or torch was built without it; use auto or cpu")
    return torch.device(name)


def dataset(config: Config) -> Dataset:
    """Return the data set of ``config.data``; with ``held_out=validation`` its ``test`` is a slice of the training pool."""
    validation = config.data.held_out_fraction if config.data.held_out == "validation" else None
    return _dataset(_known(config).files, validation)


def task(config: Config) -> Task:
    """Return the classes and the shape of the images: as the config says in a deployment, else those of the data set."""
    return config.data.task or task_of(dataset(config))


def preparation(config: Config) -> Preparation:
    """Return how a new image file becomes one like those that the run is evaluated on."""
    task = config.data.task
    if task is not None and config.data.name == NO_DATA:
        return Preparation(fit=task.fit, window=plain(task.window))
    return dataset(config).preparation


def generator(config: Config) -> Generator | None:
    """Return the frozen generator, or None where nothing in the run draws from it."""
    if not config.draws:
        return None
    section = config.generator
    return _generator(section.name, section.path, section.truncation, str(device(config)))


def initial_classifier(config: Config) -> Classifier:
    """Return a new classifier of the run, on its device, with the seeded initial weights: nobody else holds it."""
    data, model = task(config), config.model
    share_frozen = config.warm_start.of_body
    asked = Architecture(model.name, data.classes, data.channels, data.size, model.norm, model.trainable, share_frozen)
    return copy.deepcopy(_pattern(asked, model.pretrained, config.seed)).to(device(config))


def shares(config: Config) -> tuple[np.ndarray, ...]:
    """Return, for each site of a simulation, the indices of its labelled images in ``dataset(config).train``."""
    return _split(config)[0]


def labelled(config: Config, site: int) -> Images:
    """Return the labelled images of a simulated site, those that it holds out among them."""
    return dataset(config).train.take(shares(config)[site])


def unlabeled(config: Config, site: int) -> Images | None:
    """Return a simulated site's real unlabeled images for ``ssl-real``, None for every other source."""
    mine = unlabeled_shares(config)
    return dataset(config).train.take(mine[site]) if mine else None


def unlabeled_shares(config: Config) -> tuple[np.ndarray, ...]:
    """Return, for each site of ``ssl-real``, the indices of its unlabeled images in ``dataset(config).train``; else nothing."""
    return tuple(mine[: config.data.unlabeled] for mine in _split(config)[1])


def label_counts(config: Config) -> dict[str, Any]:
    """Return ``{"classes": [...], "sites": {"0": [images of each class], ...}}`` of a simulation, and where the data name the
    sites ``"names": [...]``."""
    data = dataset(config)
    y = data.train.y.numpy()
    counts = {str(site): np.bincount(y[mine], minlength=len(data.classes)).tolist() for site, mine in enumerate(shares(config))}
    names = site_names(config)
    return {"classes": list(data.classes), "sites": counts, **({} if names is None else {"names": names})}


def site_names(config: Config) -> list[str] | None:
    """Return the names of the sites in their order where ``data.partition.name=column`` takes them from the data, else None.

    UserError where there are not ``federation.sites`` of them, or a subject is at two.
    """
    pool = dataset(config).train
    return names_of(config, pool.sites, pool.subjects)


def names_of(config: Config, holders: Sequence[str] | None, subjects: Sequence[str] | None) -> list[str] | None:
    """Return what :func:`site_names` does for images [n] of ``holders`` and ``subjects``."""
    data, sites = config.data, config.federation.sites
    if data.partition.name != COLUMN or holders is None:
        return None
    names = natural_order(holders)
    where = shown(data.root or data.name)
    if len(names) != sites:
        raise UserError(
            f"federation.sites={sites}, but {where} names {len(names)} sites ({some(names)}); set federation.sites={len(names)}"
        )
    at: dict[str, str] = {}
    for subject, site in zip(subjects or (), holders, strict=False):
        if at.setdefault(subject, site) != site:
            who = "a patient" if data.subjects == PATIENT_ID else f"the subject '{shown(subject)}'"  # not even a hash of an id
            raise UserError(
                f"{where}: {who} is at the sites '{shown(at[subject])}' and '{shown(site)}'; give all of a subject's images to one "
                "site, or deal by another data.partition"
            )
    return names


def holders_of(
    config: Config, holders: Sequence[str] | None, subjects: Sequence[str] | None, some: np.ndarray
) -> np.ndarray | None:
    """Return the number of the site that holds each of the images ``some`` where the data deal by it; see :func:`names_of`."""
    names = names_of(config, holders, subjects)
    if names is None or holders is None:
        return None
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[holders[i]] for i in some.tolist()])


def _split(config: Config) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    return _cached_split(_known(config).key)


@dataclass(frozen=True)
class _Known:
    """What follows from a config: its canonical JSON, and which files its data set is read from."""

    config: Config
    key: str
    files: _Files


_KNOWN: dict[int, _Known] = {}


def _known(config: Config) -> _Known:
    """Return what follows from ``config``, made once for an object: a site asks for its share in every round."""
    known = _KNOWN.get(id(config))
    if known is None or known.config is not config:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        data = config.data
        prepared = Preparation(fit=data.fit, white_level=data.white_level, window=plain(data.window))
        files = _Files(data.name, data.root, data.size, data.download, data.subjects, prepared)
        known = _KNOWN[id(config)] = _Known(config, config.canonical_json(), files)
    return known


@lru_cache(maxsize=4)
def _cached_split(config_json: str) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    config = from_json(config_json)
    data, sites, pool = config.data, config.federation.sites, dataset(config).train
    y = pool.y.numpy()
    per_class = data.labels_per_class
    if per_class is not None and data.labels_over == "site":
        per_class *= sites
    try:
        chosen = choose_labelled(y, per_class, data.label_fraction, config.seed, pool.subjects, sites)
    except UnfitClassError as error:
        raise UserError(f"{error.named(dataset(config).classes)}{_what_fits(config, y)}") from error
    try:
        mine = _deal(config, pool, chosen)
        # A subject's other images are unlabeled images of the site that has the labelled ones.
        at = {pool.subjects[i]: site for site, part in enumerate(mine) for i in part.tolist()} if pool.subjects else {}
        rest = _deal(config, pool, np.setdiff1d(np.arange(len(y)), chosen), at) if config.method.source == "real" else ()
    except UnfitClassError as error:
        raise UserError(error.named(dataset(config).classes)) from error
    return mine, rest


def _what_fits(config: Config, y: np.ndarray) -> str:
    """Return the cure where ``labels_per_class``, the mean of a site, asks for more than there is."""
    data, sites = config.data, config.federation.sites
    if data.labels_per_class is None or data.labels_over != "site":
        return ""
    least = int(np.unique(y, return_counts=True)[1].min())
    said = f"; data.labels_per_class={data.labels_per_class} is the mean of each of {sites} sites"
    return f"{said}: set it to {least // sites}" if least >= sites else f"{said}: lower federation.sites"


def _deal(config: Config, pool: Images, some: np.ndarray, at: dict[str, int] | None = None) -> tuple[np.ndarray, ...]:
    """Deal the images ``some`` of ``pool``; at: subjects that stand at a site already."""
    section, y = config.data.partition, pool.y.numpy()[some]
    subjects = None if pool.subjects is None else [pool.subjects[i] for i in some.tolist()]
    standing = Standing(at, holders_of(config, pool.sites, pool.subjects, some))
    parts = partition(y, config.federation.sites, section.name, config.seed, subjects, standing, **section.given())
    return tuple(some[part] for part in parts)


@dataclass(frozen=True)
class _Files:
    """Which data set, and how its files are read: what decides its images, and nothing else of a config."""

    name: str
    root: str | None
    size: int | None
    download: bool
    subjects: str | None
    prepared: Preparation


@lru_cache(maxsize=4)
def _dataset(files: _Files, validation: float | None) -> Dataset:
    data = load_dataset(**vars(files))
    return data if validation is None else validation_split(data, validation)


@lru_cache(maxsize=2)
def _generator(name: str, path: str | None, truncation: float, where: str) -> Generator:
    return load_generator(name, path, truncation, where)


@lru_cache(maxsize=2)
def _pattern(asked: Architecture, pretrained: str | None, seed: int) -> Classifier:
    """Return the classifier that others are copied from, on the CPU; it is never trained and never given out."""
    return build_classifier(asked, pretrained, seed)


def task_of(data: Dataset) -> Task:
    """Return the task of a data set: what sites that hold their own images have to agree on."""
    stored, window = data.train.x.shape[-1], data.preparation.window
    return Task(
        classes=data.classes,
        size=data.size,
        stored_size=None if stored == data.size else stored,
        channels=data.channels,
        flip=data.flip,
        fit=data.preparation.fit,
        window=None if window is None else AgreedWindow(center=window[0], width=window[1]),
    )
