"""How many images one call may take so that each is computed alike in every place of the batch.

Libraries choose their kernels by shape and place: the last images of a batch may be added up in another order than the first. A
difference of 1e-7 looks harmless, but a server that chooses the weights can make it any size, and then one unit more, which
moves the places of others, moves their contributions too. So every call has one size, whatever was drawn, and that size is tried
out on this machine: copies of one image must give the same bits in every place. And one beside an image of NaN must give the same
too, since a network that is not of the house may mix the images of a batch: NaN reaches all that sees it, at whatever weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, MutableMapping, Sequence

import torch
from torch import Tensor

from mpssl_fed.models import Classifier, Params

Parts = Iterable[Sequence[Tensor]]
"""What is computed of the images of one call, of some after the other: tensors [k, ...] each time, the k adding up to m."""

Compute = Callable[[int], Parts]
"""m -> what a call over m copies of one image computes."""

Known = MutableMapping[Hashable, int]
"""What was tried out before."""


def places(known: Known, key: Hashable, most: int, compute: Compute) -> int:
    """Return the largest of ``most`` and the powers of two below at which ``compute`` gives each copy the same bits.

    key: what ``compute`` depends on; it is tried once for each key and number of threads. Nothing here may depend on private
    data: the answer shows in the seconds of a round.
    """
    whole = (key, most, torch.get_num_threads())
    if whole not in known:
        m = max(1, most)
        while m > 1 and not _alike(compute(m)):
            m = 1 << ((m - 1).bit_length() - 1)
        known[whole] = m
    return known[whole]


def full(batch: Sequence[Tensor], m: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (image numbers [m], how many of them count) for units of one image each; the last part is filled up with its own."""
    for start in range(0, len(batch), m):
        part = torch.cat(list(batch[start : start + m]))
        yield torch.cat([part, part[-1:].expand(m - len(part))]), len(part)


def beside_nan(x: Tensor, y: Tensor, of_images: Callable[[Tensor, Tensor], Parts]) -> Parts:
    """Yield what is computed of the first image of x [m, ...], y [m]: beside the others, and where these are NaN."""
    others = (torch.arange(len(x), device=x.device) > 0).view(-1, *[1] * (x.ndim - 1))
    for seen in (x, x.masked_fill(others, torch.nan)):
        yield [some[:1] for some in next(iter(of_images(seen, y)))]


def draws(classifier: Classifier) -> bool:
    """Return whether a pass draws random numbers, as dropout does: those of an image then hang on how many were passed before."""
    like = classifier.head.weight

    def state() -> Tensor:
        return torch.cuda.get_rng_state(like.device) if like.device.type == "cuda" else torch.get_rng_state()

    before = state()
    with torch.no_grad():
        classifier(torch.zeros(1, classifier.channels, classifier.size, classifier.size).to(like))
    return not torch.equal(before, state())


def any_weights(classifier: Classifier) -> Params:
    """Return random values for all parameters, so that what is tried out does not hang on the server's, which may give zeros."""
    rng = torch.Generator().manual_seed(0)
    return {name: (0.1 * torch.randn(p.shape, generator=rng)).to(p) for name, p in classifier.named_parameters()}


def _alike(parts: Parts) -> bool:
    first: list[Tensor] = []
    for part in parts:
        first = first or [some[:1].clone() for some in part]
        if not all(torch.equal(some, one.expand_as(some)) for some, one in zip(part, first, strict=True)):
            return False
    return any(bool(one.any()) for one in first)
