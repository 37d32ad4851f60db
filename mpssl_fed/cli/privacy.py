"""The commands ``privacy plan`` and, from its own file, ``policy``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mpssl_fed.cli.approve import generator_command
from mpssl_fed.cli.options import AsJson, Overrides
from mpssl_fed.cli.policy import ConfigName, policy_app

app = typer.Typer()
privacy_app = typer.Typer(no_args_is_help=True, help="What a run would release and what it costs.")
app.add_typer(privacy_app, name="privacy")
app.add_typer(policy_app, name="policy")
policy_app.command("generator")(generator_command)


@privacy_app.command("plan")
def plan_command(
    config: ConfigName,
    overrides: Overrides = None,
    classes: Annotated[int | None, typer.Option(help="Classes of the task, for the noise of a gap by class.")] = None,
    as_json: AsJson = False,
) -> None:
    """Solve sigma for privacy.epsilon and show what each release costs, before anything is read."""
    from mpssl_fed.config import load

    resolved = load(config, overrides or [])

    from mpssl_fed.privacy.plan import plan_for

    described = plan_for(resolved).to_json(classes)
    typer.echo(json.dumps(described, indent=2) if as_json else plan_text(described))


def plan_text(plan: dict[str, Any]) -> str:
    """Return a plan's JSON form as lines to read."""
    from mpssl_fed.privacy.filter import rounded_up

    unit, without = plan["unit"], plan["lmo"]
    covers = "every read of private data" if plan["scope"] == "end-to-end" else "the supervised gradient alone, not LMO"
    lines = [
        f"epsilon {rounded_up(plan['epsilon'])} at delta {plan['delta']:g} per {unit}, of {plan['epsilon_asked']:g} asked; "
        f"covers {covers}",
        f"sigma {plan['sigma']:g}, q {plan['sample_rate']:g}, {plan['rounds']} rounds x {plan['local_steps']} steps, "
        f"public size {plan['public_size']}",
        "release        sigma   clip      q  times  noise / clip",
    ]
    for release in plan["releases"]:
        of_class = release.get("noise_over_clip_of_a_class")
        lines.append(
            f"{release['name']:<13}{release['sigma']:>7.4g}{release['clip']:>7.3g}{release['q']:>7.3g}{release['steps']:>7d}"
            f"{release['noise_over_clip']:>14.4f}" + (f"  ({of_class:.4f} for the mean of one class)" if of_class else "")
        )
    lines.append("noise / clip: noise std of one coordinate after division by q x public_size, over the clip bound")
    if any(release["name"] == "confusion" for release in plan["releases"]):
        lines.append("confusion: the table of an evaluation at the sites, counts that are not divided; sigma is their noise std")
    if plan["lmo_every"]:
        lines.append(
            f"LMO every {plan['lmo_every']} steps: without it epsilon {rounded_up(without['epsilon_without'])} at this sigma, or "
            f"sigma {without['sigma_without']:g} at this epsilon"
        )
    if plan["shared"]:
        shared = plan["shared"]
        lines += [
            f"shared noise: sigma {shared['sigma_of_a_site']:.4g} at a site, {shared['sigma_of_the_sum']:.4g} in a sum with "
            f"{shared['honest']} honest sites (of {shared['sites']}, {shared['colluding']} may collude); a site that trusts no "
            f"other would add sigma {shared['sigma_without_trust']:g}",
            f"if no other site is honest, epsilon {rounded_up(shared['epsilon_alone'])} is left",
        ]
        if not shared["colluding"]:
            lines.append(
                "none may collude: that is against the server. A site knows its own part of the noise; against one that is "
                f"curious by itself {shared['honest'] - 1} others are left, which federation.secure.colluding=1 covers"
            )
    lines.append(f"a labelled-step account would claim epsilon {rounded_up(plan['labelled_step_epsilon'])}")
    points = plan["epsilon_after_round"]
    shown = points if len(points) <= 10 else [points[len(points) * k // 10 - 1] for k in range(1, 11)]
    lines.append("epsilon after round " + ", ".join(f"{point['round']}: {rounded_up(point['epsilon'])}" for point in shown))
    return "\n".join(lines)
