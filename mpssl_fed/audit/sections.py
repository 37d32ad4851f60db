"""The audits of one site, each as a section of the report. What they read is private: nothing here crosses a wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpssl_fed.audit.audited import Audited
from mpssl_fed.audit.model_sections import inversion, membership, samples
from mpssl_fed.audit.release_sections import canary, mechanism
from mpssl_fed.audit.report import Section
from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.runs.manifest import now

AUDITS: dict[str, Callable[[Audited], Section]] = {
    "mechanism": mechanism,
    "canary": canary,
    "membership": membership,
    "samples": samples,
    "inversion": inversion,
}


def facts(audited: Audited) -> dict[str, Any]:
    """Return what the report says of the run at its top."""
    privacy = audited.config.privacy
    found: dict[str, Any] = {
        "date": now()[:16].replace("T", " ") + " UTC",
        "data": audited.source or audited.config.data.name,
        "images": len(audited.labelled),
        "run": audited.run_id or "-",
        "site": audited.site,
        "seed": audited.seed,
        "scope": privacy.scope,
    }
    if not privacy.on:
        return found | {"claimed epsilon": "none: scope off protects no image"}
    plan = plan_for(audited.config)
    covers = "" if plan.scope == "end-to-end" else " (of the labelled step alone)"
    told = {"claimed epsilon": f"{rounded_up(plan.price())} at delta {plan.delta:g} per {plan.unit}{covers}"}
    if plan.shared is not None:
        told["audited"] = f"as if no other site were honest, which leaves epsilon {rounded_up(plan.price_alone())}"
    return found | told
