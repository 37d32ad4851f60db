"""Which runs can share their noise: what ``privacy.trust=sum`` needs of the other sections, or why not."""

from __future__ import annotations

from mpssl_fed.config.federation import Federation, Privacy
from mpssl_fed.config.learning import Optim
from mpssl_fed.config.secure import MOST_SITES


def refuse_unshareable(privacy: Privacy, federation: Federation, optim: Optim) -> None:
    """Raise ValueError, with the cure, where ``privacy.trust=sum`` stands beside what it does not go with."""
    secure = federation.secure
    if not privacy.shared:
        if not secure.masks:
            raise ValueError(
                "federation.secure.masks=false is for studies of privacy.trust=sum, which add the very integers that masks would "
                "hide; remove it"
            )
        return
    wrong = (
        (federation.aggregation != "secure", "federation.aggregation", "secure", "noise is shared in a sum that alone is seen"),
        (privacy.scope != "end-to-end", "privacy.scope", "end-to-end", "exact reads beside it would be unaccounted"),
        (federation.local_steps != 1, "federation.local_steps", "1", "a second step would start from what one site released alone"),
        (optim.name != "sgd", "optim.name", "sgd", "the step of the sum is taken at the server"),
        (optim.weight_decay != 0, "optim.weight_decay", "0", "the step of the sum is taken at the server"),
        (federation.weighting != "size", "federation.weighting", "size", "a sum of gradients weighs each unit alike"),
    )
    for is_wrong, key, cure, why in wrong:
        if is_wrong:
            raise ValueError(f"privacy.trust=sum needs {key}={cure}: {why}")
    if secure.neighbours == "few" and secure.masks and federation.sites <= MOST_SITES:
        raise ValueError(
            f"privacy.trust=sum among federation.sites={federation.sites} with federation.secure.neighbours=few: up to "
            f"{MOST_SITES} all can share masks with all, which no draw can spoil; set it to all"
        )
    if secure.honest < 1:
        raise ValueError(
            f"privacy.trust=sum: of federation.secure.min_sites={secure.min_sites} sites, {secure.colluding} may collude, so no "
            "honest one is counted on; raise min_sites"
        )
