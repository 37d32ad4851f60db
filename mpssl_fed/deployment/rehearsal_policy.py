"""The policy of a rehearsal's sites: the user is owner and server there, so it permits what the config asks, and no more."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from mpssl_fed.config import Config
from mpssl_fed.deployment.own_generator import policy_entry
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.policy import Policy, Request, decide, to_agree
from mpssl_fed.reply_metrics import CONFUSION, EXACT, REPLY_METRICS


def policy_of(config: Config) -> dict[str, Any]:
    """Return the fields of a policy that takes ``config``, its task spelt out; UserError where no site's policy could."""
    privacy, federation, method = config.privacy, config.federation, config.method
    size, generator = privacy.public_size or 100, parts.generator(config)
    sigma = min(one.sigma for one in plan_for(config).mechanisms().values()) if privacy.on and method.source != "real" else None
    entries = sum(parameter.numel() for parameter in parts.initial_classifier(config).parameters())
    fingerprint = None if generator is None else generator.state_hash()
    asked = Request.of(for_sites(config), sigma, entries, fingerprint)
    fields: dict[str, Any] = {
        "dataset": "deploy",
        "public_size": size,
        "max_epsilon": privacy.epsilon or 1.0,
        "delta": min(privacy.delta, 1 / (10 * size)),
        "unit": privacy.unit,
        "scope": privacy.scope,
        "trust": privacy.trust if privacy.on else "site",
        "min_sigma": 0.5 if sigma is None else min(0.5, sigma),
        "max_sample_rate": privacy.sample_rate,
        "max_rounds": federation.rounds,
        "max_local_steps": federation.local_steps,
        "max_steps": federation.rounds * federation.local_steps,
        "max_evaluations": federation.evaluate_at_sites.times,
        **({"max_table_classes": len(parts.task(config).classes)} if federation.evaluate_at_sites.times else {}),
        "max_parameters": entries,
        "max_synthetic_mb": max(1, int(asked.synthetic_mb or 0) + 1),
        "methods": [method.name or f"{method.source}+{method.loss}"],
        "metrics": [name for name in (*REPLY_METRICS, CONFUSION) if privacy.scope != "end-to-end" or name not in EXACT],
    }
    if generator is not None:
        fields["generators"] = [policy_entry(config, generator)]
    try:
        cure = to_agree(Policy.model_validate(fields), asked)
        fields |= {"settings": cure} if cure else {}
        decision = decide(Policy.model_validate(fields), asked)
    except ValidationError as error:
        told = "; ".join(f"{item['loc'][0] if item['loc'] else 'policy'}: {item['msg']}" for item in error.errors())
        raise UserError(f"no policy of a deployed site could take this config: {told}. Simulate it instead") from error
    if decision.refusals:
        told = "; ".join(refusal.text for refusal in decision.refusals)
        raise UserError(f"no policy of a deployed site could take this config: {told}. Change it, or simulate it instead")
    return fields
