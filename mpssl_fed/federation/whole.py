"""Whether subjects are whole, found from what each site and side ends up with, not from how it was dealt."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.data.subjects import likeness, refuse_lookalikes, refuse_on_both_sides
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.names import shown


def subjects_of(config: Config) -> dict[str, Any] | None:
    """Return what a simulation's manifest says of subjects, None where its images name none.

    ``{"count": at all sites, "sites_disjoint": True, "test": in the test part, "test_disjoint": True}``; the last two are None
    where the test images name none. UserError for subjects at two sites, in train and test, or in two spellings: they are told by
    :func:`mpssl_fed.data.subjects.likeness`, so that no form of a number parts a person.
    """
    data = parts.dataset(config)
    if data.train.subjects is None:
        return None
    name, train = f"data set '{shown(data.name)}'", list(dict.fromkeys(data.train.subjects))
    test = None if data.test.subjects is None else list(dict.fromkeys(data.test.subjects))
    refuse_on_both_sides(train, test or (), name)
    refuse_lookalikes((one, name) for one in (*train, *(test or ())))
    subjects = data.train.subjects
    held = zip_longest(parts.shares(config), parts.unlabeled_shares(config), fillvalue=())
    count = count_apart({subjects[i] for share in shares for i in share} for shares in held)
    tested = {"test": None, "test_disjoint": None} if test is None else {"test": len(test), "test_disjoint": True}
    return {"count": count, "sites_disjoint": True, **tested}


def count_apart(sites: Iterable[Iterable[str]]) -> int:
    """Return how many subjects the sites have in all; UserError for one that stands at two."""
    holder: dict[str, int] = {}
    for site, subjects in enumerate(sites):
        for subject in subjects:
            if holder.setdefault(likeness(subject), site) != site:
                raise UserError(
                    f"the subject '{shown(subject)}' has images at the sites {holder[likeness(subject)]} and {site}; subjects stay "
                    "whole: give all of them to one site"
                )
    return len(holder)
