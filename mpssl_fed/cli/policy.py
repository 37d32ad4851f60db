"""The command ``policy check``: what a site's policy takes of a config, key by key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpssl_fed.cli.options import AsJson, Overrides
from mpssl_fed.errors import UserError

if TYPE_CHECKING:
    from mpssl_fed.config import Config
    from mpssl_fed.privacy.plan import Plan
    from mpssl_fed.privacy.policy import Decision, Granted, Policy, Row

policy_app = typer.Typer(no_args_is_help=True, help="What a site permits.")

ConfigName = Annotated[str, typer.Argument(help="YAML file, or the name of a shipped config such as 'privacy/end-to-end'.")]
COLUMN = 44
UNKNOWN = {
    "model size": " (give --parameters)",
    "synthetic images, MB": " (the config has no data.task)",
    "generator SHA-256": " (a site compares its files)",
}


@policy_app.command("check")
def check_command(
    policy: Annotated[str, typer.Argument(help="The site's policy, a YAML file, or the name of a shipped one: policies/site.")],
    config: ConfigName,
    overrides: Overrides = None,
    parameters: Annotated[int | None, typer.Option(help="Entries of the classifier, to hold against max_parameters.")] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Every key, not only what is refused or not as installed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say, key by key, what the policy takes of a config as a server would send it, and what it would grant.

    Exit status 1 when it refuses.
    """
    from mpssl_fed.config import find, load

    file, asked = find(policy), load(config, overrides or [])

    from mpssl_fed.federation.server.deployed_run import for_sites
    from mpssl_fed.privacy.policy import Request, decide, load_policy, table, to_agree

    rules, run = load_policy(file), for_sites(asked)
    plan, unsolved = _plan_under(rules, run)
    request = Request.of(run, sigma=_smallest_sigma(plan), parameters=parameters, generator_sha256=_generator_hash(rules, run))
    decision, rows, cure = decide(rules, request), table(rules, request), to_agree(rules, request)
    refusals = [(refusal.code.value, refusal.text) for refusal in decision.refusals] + ([("plan", unsolved)] if unsolved else [])
    unchecked = [f"{row.key}{UNKNOWN.get(row.key, '')}" for row in rows if row.verdict == "open"]
    if as_json:
        typer.echo(json.dumps(_json(decision, refusals, unchecked, rows, cure), indent=2))
    else:
        lines = _table_lines(rows, show_all) + [f"refused ({code}): {text}" for code, text in refusals]
        lines += _cure_lines(cure, rules.settings) if cure else []
        lines += _grant_lines(decision.granted, plan, rules) if decision.granted and not unsolved else []
        typer.echo("\n".join([*lines, *(f"not checked here: {what}" for what in unchecked)]))
    if refusals:
        raise typer.Exit(1)


def _json(
    decision: Decision, refusals: list[tuple[str, str]], unchecked: list[str], rows: Sequence[Row], cure: dict[str, Any]
) -> dict[str, Any]:
    return {
        "granted": None if decision.granted is None or refusals else vars(decision.granted),
        "refusals": [{"code": code, "text": text} for code, text in refusals],
        "to_agree": cure,
        "unchecked": unchecked,
        "table": [vars(row) for row in rows],
    }


def _table_lines(rows: Sequence[Row], show_all: bool) -> list[str]:
    """Return the table, what is refused on top; without ``show_all`` only that and what differs from the default."""
    from mpssl_fed.privacy.policy_settings import shown

    refused = [row for row in rows if row.verdict == "refused"]
    others = [row for row in rows if row.verdict != "refused" and (show_all or (row.changed and row.verdict != "ignored"))]
    cells = [("key", "asked", "this site takes", "who decides", "verdict")]
    for row in refused + others:
        verdict = f"refused ({row.code})" if row.code else row.verdict
        cells.append((row.key, shown(row.asked), row.accepted, row.who, verdict))
    widths = [min(COLUMN, max(len(line[i]) for line in cells)) for i in range(4)]
    lines = ["  ".join(_cut(cell, width) for cell, width in zip(line, widths, strict=False)) + f"  {line[4]}" for line in cells]
    left = len(rows) - len(refused) - len(others)
    return lines + ([f"{left} more keys are as installed, or ignored by a site: --all shows them"] if left else [])


def _cut(cell: str, width: int) -> str:
    return f"{cell:<{width}}" if len(cell) <= width else f"{cell[: width - 3]}..."


def _cure_lines(cure: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return the key ``settings`` as an owner who agrees would write it, with what stands there already."""
    from mpssl_fed.privacy.policy_settings import dotted

    whole = dict(dotted(settings)) | cure
    return [
        "to agree, let the policy say, in place of its key 'settings':",
        "settings:",
        *(f"  {key}: {json.dumps(value)}" for key, value in whole.items()),
    ]


def _plan_under(policy: Policy, config: Config) -> tuple[Plan | None, str]:
    """Return the plan the site would solve under its own size, delta and unit, or why there is none; None for scope off."""
    from mpssl_fed.privacy.plan import plan_for

    if not config.privacy.on or config.method.source == "real":
        return None, ""
    delta = min(policy.delta, config.privacy.delta)
    try:
        return plan_for(config, delta=delta, public_size=policy.public_size, unit=policy.unit), ""
    except UserError as error:
        return None, str(error)


def _smallest_sigma(plan: Plan | None) -> float | None:
    return min(one.sigma for one in plan.mechanisms().values()) if plan else None


def _generator_hash(policy: Policy, config: Config) -> str | None:
    """Return the state hash of a listed generator that comes with an installed package; None for files, which a site compares."""
    from mpssl_fed.generators import load_generator
    from mpssl_fed.generators.files import comes_installed

    listed = [generator for generator in policy.generators if generator.name == config.generator.name]
    if not listed or any(generator.files for generator in listed) or not comes_installed(config.generator.name):
        return None
    return load_generator(config.generator.name).state_hash()


def _grant_lines(granted: Granted, plan: Plan | None, policy: Policy) -> list[str]:
    from mpssl_fed.privacy.filter import EXCLUSIVE, BudgetExceededError, admit_run, limit_of, rounded_up
    from mpssl_fed.privacy.ledger_rows import Spent

    lines = [f"granted: {', '.join(f'{key} {value}' for key, value in vars(granted).items())}"]
    if plan is None:
        return [*lines, "scope off: protects no image from a hostile server, and the data set counts as unaccounted from then on"]
    lines.append(
        f"sigma {plan.sigma_gradient:g}; the plan costs epsilon {plan.price():.3f} of {granted.lifetime_epsilon:g} for life"
    )
    if plan.shared is not None:
        lines.append(
            f"shared noise: that epsilon holds if {plan.shared.honest} sites of each sum are honest; "
            f"{rounded_up(plan.price_alone())} if this one alone is"
        )
    try:
        terms = admit_run(limit_of(policy), "run", plan.history(), granted.scope == "end-to-end")(Spent(granted.dataset))
    except BudgetExceededError as error:
        return [*lines, f"budget: {error}"]
    taken = "as a first run it takes the whole lifetime budget; no other run could follow"
    return [*lines, taken if terms == EXCLUSIVE else "budget: later runs may follow"]
