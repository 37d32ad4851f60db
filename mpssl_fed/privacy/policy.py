"""The site decides: a request held against the policy from the site's own disk, and what is granted of it."""

from __future__ import annotations

from dataclasses import dataclass

from mpssl_fed.codes import Code
from mpssl_fed.privacy.policy_file import SCOPES, Policy, PublicGenerator, load_policy
from mpssl_fed.privacy.policy_table import Request, Row, table, to_agree

__all__ = [
    "SCOPES",
    "Decision",
    "Declined",
    "Granted",
    "Policy",
    "PublicGenerator",
    "Request",
    "Row",
    "decide",
    "load_policy",
    "table",
    "to_agree",
]


@dataclass(frozen=True)
class Granted:
    """The tighter of request and policy; what a plan is made of. lifetime_epsilon: the policy's, over all runs.
    generator_public: whether a warm start from the generator may be printed as epsilon 0."""

    dataset: str
    scope: str
    unit: str
    epsilon: float | None
    lifetime_epsilon: float
    delta: float
    public_size: int
    sample_rate: float
    rounds: int
    local_steps: int
    metrics: tuple[str, ...]
    generator_public: bool


@dataclass(frozen=True)
class Declined:
    """A code for the server, a text for the operator of the site alone."""

    code: Code
    text: str


@dataclass(frozen=True)
class Decision:
    """Granted limits, or the reasons for a refusal, every one of them."""

    granted: Granted | None
    refusals: tuple[Declined, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """What may cross the wire."""
        return tuple(refusal.code.value for refusal in self.refusals)


def decide(policy: Policy | None, request: Request) -> Decision:
    """Hold a request against the policy; without one, everything is refused. Reasons stand in the order of :class:`Code`."""
    if policy is None:
        return Decision(None, (Declined(Code.NO_POLICY, "this site has no policy file, so it answers nothing"),))
    refused = [Declined(row.code, row.text) for row in table(policy, request) if row.code is not None]
    if refused:
        return Decision(None, tuple(sorted(refused, key=lambda refusal: list(Code).index(refusal.code))))
    known = next((g for g in policy.generators if g.identity == request.generator_sha256), None)
    values = request.values
    return Decision(
        Granted(
            dataset=policy.dataset,
            scope=request.scope,
            unit=policy.unit,
            epsilon=values["privacy.epsilon"] if request.scope != "off" else None,
            lifetime_epsilon=policy.max_epsilon,
            delta=min(policy.delta, values["privacy.delta"]),
            public_size=policy.public_size,
            sample_rate=values["privacy.sample_rate"],
            rounds=values["federation.rounds"],
            local_steps=values["federation.local_steps"],
            metrics=request.metrics,
            generator_public=known is not None and known.public,
        )
    )
