"""The terms of a sum: who must be in it, how many may collude, and the integers that it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mpssl_fed.secure import graph
from mpssl_fed.secure.errors import TermsError

MOST_SITES = 50
"""Sites of one epoch whose graph is complete, so that each site deals a share of each secret to every other."""
MOST_OF_FEW, FEW_FROM = 1000, 33
"""Sites of one epoch where each has few neighbours, and from how many on that is so."""
STAY = 4, 3
"""Where each site has few neighbours, three of four sites stay in each sum: for so many falling out the graph is solved."""
MOST_SLOTS = 64
EXACT_BITS, SUM_BITS = 53, 63
"""A weighted coordinate is rounded as a float64, exact below 2^53; the sum of all is read as a signed integer below 2^63."""
MOST_GRID_BITS = 40


@dataclass(frozen=True)
class Floor:
    """What a site asks of the terms at least: the fewest sites in an opened sum, how many it fears to collude, and whether it opens
    a sum only on signatures of others that saw the same one."""

    min_sites: int = 3
    colluding: int = 0
    signed: bool = False


@dataclass(frozen=True)
class Terms:
    """What all sites of an epoch agree on; it stands in every signature and every key.

    min_sites: fewest sites in a sum that is opened (m). threshold: shares that rebuild a secret; 0: the fewest that serve.
    colluding: sites that may give their shares to the server (t). signed: a sum is opened only on ``threshold`` signatures over the
    same view of it. slots: sums for which one set of keys serves. weighted: by size, else all alike. largest_weight: the most that
    one site may weigh. range: largest magnitude of a coordinate of an update. unit: the size of an integer that sites hand over
    themselves, 0 where integers are made of updates by ``range``; sigma, clip: of the noise that each of them adds to those, its
    multiplier and what it hides. few: whether, from FEW_FROM sites on, each shares masks with few
    neighbours; degree: with how many, of solved terms (0: with all).
    """

    min_sites: int
    threshold: int
    colluding: int
    signed: bool
    slots: int
    weighted: bool
    largest_weight: int
    range: float
    unit: float = 0.0
    sigma: float = 0.0
    clip: float = 0.0
    few: bool = False
    degree: int = 0

    @property
    def fewest(self) -> int:
        """Fewest sites that are asked for a sum and that are in it, of solved terms: m, and all who have to sign."""
        return max(self.min_sites, self.threshold if self.signed else 0)

    def strictest(self, floors: list[Floor]) -> Terms:
        """Return these terms raised to every floor; the threshold 0 stays to be solved."""
        return replace(
            self,
            min_sites=max([self.min_sites, *(floor.min_sites for floor in floors)]),
            colluding=max([self.colluding, *(floor.colluding for floor in floors)]),
            signed=self.signed or any(floor.signed for floor in floors),
        )

    def solved(self, sites: int) -> Terms:
        """Return the terms of an epoch of ``sites`` with its threshold; TermsError where they do not fit it.

        Where the graph is complete 2 threshold > sites + colluding keeps two halves of the sites from opening two different sums:
        to rebuild both secrets of one site takes 2 (threshold - colluding) answers of honest ones, each of which gives one.
        """
        if self.few and sites >= FEW_FROM:
            return self._of_few(sites)
        least = max((sites + self.colluding) // 2 + 1, self.colluding + 1, 2)
        threshold = self.threshold or least
        if not 2 <= sites <= MOST_SITES:
            raise TermsError(f"secure aggregation among {sites} sites; want 2 to {MOST_SITES}")
        self._require_enough(sites)
        if not least <= threshold <= sites:
            raise TermsError(
                f"threshold {threshold} of {sites} sites with {self.colluding} that may collude: want {least} to {sites} "
                "(federation.secure.threshold, .colluding)"
            )
        self._require_digits(sites)
        return replace(self, threshold=threshold)

    def _of_few(self, sites: int) -> Terms:
        """Return the terms of ``sites`` of which each has few neighbours, whose shares rebuild its secrets."""
        if self.signed or self.threshold:
            what = "sites that list peers (secure_aggregation.peers)" if self.signed else "federation.secure.threshold"
            raise TermsError(
                f"federation.secure.neighbours=few holds against an honest but curious server, and {what} do not fit it"
            )
        if sites > MOST_OF_FEW:
            raise TermsError(f"secure aggregation among {sites} sites; want at most {MOST_OF_FEW}")
        raised = replace(self, min_sites=max(self.min_sites, -(-sites * STAY[1] // STAY[0])))
        raised._require_enough(sites)
        raised._require_digits(sites)
        found = graph.solved(sites, self.colluding, sites - raised.min_sites, self.slots)
        if found is None:
            raise TermsError(
                f"no graph of few neighbours keeps {sites} sites apart from {self.colluding} that may collude; lower "
                "federation.secure.colluding, or leave neighbours=all"
            )
        return replace(raised, threshold=found.threshold, degree=found.degree)

    def _require_enough(self, sites: int) -> None:
        if sites < self.min_sites:
            raise TermsError(
                f"{sites} sites are fewer than the {self.min_sites} that a sum must have (federation.secure.min_sites)"
            )
        if self.min_sites < self.colluding + 2:
            raise TermsError(
                f"a sum of {self.min_sites} sites of which {self.colluding} may collude hides nobody: want "
                f"federation.secure.min_sites of at least {self.colluding + 2}"
            )

    def _require_digits(self, sites: int) -> None:
        if self.grid_bits(sites) < 1 and not self.unit:
            raise TermsError(
                f"range {self.range:g} x weights up to {self.largest_weight} of {sites} sites leave no digits within 2^{SUM_BITS}; "
                "lower federation.secure.range or federation.max_examples, or set federation.weighting=equal"
            )

    def grid_bits(self, sites: int) -> int:
        """Return f: coordinates are multiples of 2^-f. The most for which w R 2^f <= 2^53 and n w R 2^f < 2^63."""
        most = (self.largest_weight if self.weighted else 1) * self.range
        one = math.floor(EXACT_BITS - math.log2(most))
        total = math.ceil(SUM_BITS - math.log2(most * sites)) - 1
        return min(one, total, MOST_GRID_BITS)

    def error(self, sites: int, weights: float) -> float:
        """Return the bound of a mean's error in one coordinate, of ``sites`` that weigh ``weights`` together; none clipped."""
        return sites * 2.0 ** -(self.grid_bits(sites) + 1) / weights

    def text(self) -> str:
        """Return the terms as one line that is equal for equal terms alone."""
        shared = f" unit={self.unit.hex()} sigma={self.sigma.hex()} clip={self.clip.hex()}" if self.unit else ""
        return (
            f"m={self.min_sites} threshold={self.threshold} t={self.colluding} signed={int(self.signed)} slots={self.slots} "
            f"weighted={int(self.weighted)} largest={self.largest_weight} range={self.range.hex()}"
            f"{shared}{f' few degree={self.degree}' if self.few else ''}"
        )
