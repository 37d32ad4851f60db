"""The section that says how sites' updates are summed without the server seeing any of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mpssl_fed.config.marks import Marks, server, site
from mpssl_fed.config.section import Section

TERMS = "a term of the sum, no looser than the policy's"
MOST_SITES, MOST_OF_FEW, FEW_FROM = 50, 1000, 33
"""Sites of a sum where each shares masks with all others, and where with few; from how many on they are few."""


class Secure(Section):
    """Terms of ``federation.aggregation=secure``: every site signs them, and raises them to its own policy's."""

    marks: ClassVar[Marks] = {
        "threshold": server(TERMS, 0, MOST_SITES),
        "min_sites": server(TERMS, 2, MOST_SITES),
        "colluding": server(TERMS, 0, MOST_SITES - 2),
        "slots": server("keys in memory, bounded", 1, 64),
        "neighbours": server("a term of the sum, refused beside peers"),
        "range": server("a public bound, before anything is masked", 1e-3, 1e6),
        "masks": site("off is for public data", fixed=True),
    }

    min_sites: int = Field(3, ge=2, le=MOST_OF_FEW, description="Fewest sites in a sum that is opened (m).")
    threshold: int = Field(0, ge=0, le=MOST_SITES, description="Sites whose shares open a sum; 0: the fewest that serve.")
    colluding: int = Field(0, ge=0, le=MOST_OF_FEW - 2, description="Sites that may give the server all they hold (t).")
    slots: int = Field(8, ge=1, le=64, description="Rounds for which one exchange of keys serves.")
    neighbours: Literal["all", "few"] = Field("all", description="few: from 33 sites on a random graph, no active server.")
    range: float = Field(16.0, ge=1e-3, le=1e6, description="Largest change of a weight in a round; larger ones are clipped to it.")
    masks: bool = Field(True, description="false: studies of privacy.trust=sum on public data, which add the integers unmasked.")

    @property
    def honest(self) -> int:
        """Sites of an opened sum that are counted on to be honest (h = m - t)."""
        return self.min_sites - self.colluding


NEEDS_EVERY_REPLY = ("fedmedian", "fedtrimmedavg", "krum", "multikrum")


def refuse_unfit(secure: Secure, sites: int, strategy: str, norm_bound: float | None) -> None:
    """Raise ValueError, with the cure, for what a server that sees a sum alone cannot do."""
    if strategy in NEEDS_EVERY_REPLY:
        raise ValueError(
            f"strategy.name={strategy} compares the sites' weights with each other, and with aggregation=secure the server sees "
            "their sum alone; set strategy.name to fedavg, fedprox, fedavgm, fedadam or fedyogi"
        )
    if norm_bound is not None:
        raise ValueError(
            f"strategy.norm_bound={norm_bound:g} is applied by the server to each site's update, which it does not see with "
            "aggregation=secure; leave it out"
        )
    if not secure.masks:
        if secure.min_sites > sites:
            raise ValueError(f"secure.min_sites={secure.min_sites} among sites={sites}; want at most so many")
        return
    few = secure.neighbours == "few"
    most = MOST_OF_FEW if few else MOST_SITES
    if not secure.min_sites <= sites <= most:
        raise ValueError(
            f"aggregation=secure among sites={sites}; want secure.min_sites={secure.min_sites} to {most}"
            + ("" if few else f", or secure.neighbours=few for up to {MOST_OF_FEW}")
        )
    if secure.min_sites < secure.colluding + 2:
        raise ValueError(
            f"secure.min_sites={secure.min_sites} with secure.colluding={secure.colluding} hides nobody; want at least "
            f"{secure.colluding + 2}"
        )
    if few and sites >= FEW_FROM:
        if secure.threshold:
            raise ValueError(f"secure.threshold={secure.threshold} with secure.neighbours=few, which solves its own; set it to 0")
        return
    least = max((sites + secure.colluding) // 2 + 1, secure.colluding + 1, 2)
    if secure.threshold and not least <= secure.threshold <= sites:
        raise ValueError(
            f"secure.threshold={secure.threshold} of sites={sites} with secure.colluding={secure.colluding}; want {least} to "
            f"{sites}, or 0 for the fewest"
        )
