"""Run the campaign and write its log: how many cases, what they were refused by, and what bounds the rest held.

    python -m tests.real.hostile [--random 1000] [--seed 11] [--out benchmarks/results/hostile-campaign.md]

Exits with 1, and names the cases, where one does not hold.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mpssl_fed.config import from_json
from mpssl_fed.files import write_atomic
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.runs.manifest import versions
from tests.real.hostile.attack import Attack, accepted, randomly, refusals
from tests.real.hostile.target import Target, generous, guarded, honest_text
from tests.real.sites import weights

Failed = list[str]


def run(target: Target, cases: Iterable[tuple[str, Attack]], failed: Failed) -> Counter[str]:
    """Run cases, and return how many there were of each kind."""
    kinds: Counter[str] = Counter()
    for name, attack in cases:
        kinds[name.partition(":")[0]] += 1
        try:
            attack(target)
        except AssertionError as error:
            failed.append(f"{name}: {error}")
    return kinds


def section(title: str, target: Target, kinds: Counter[str]) -> list[str]:
    """Return the lines of one daemon: its cases by kind, its answers by code, and what was measured of replies."""
    told = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    rows = [
        f"| {code} | {n} |" for code, n in sorted(target.tally.items(), key=lambda item: (item[0] != "taken", -item[1], item[0]))
    ]
    lines = [f"## {title}", "", f"{sum(kinds.values())} cases ({told}), {sum(target.tally.values())} messages.", ""]
    lines += ["| answer | messages |", "|---|---|", *rows, ""]
    if target.seen:
        seen = [f"| {what} | {least:.3g} | {most:.3g} |" for what, (least, most) in sorted(target.seen.items())]
        lines += ["| of what was taken | least | most |", "|---|---|---|", *seen, ""]
    ledger = Ledger(target.site.state / "ledger.sqlite")
    spent = 0 if ledger.files.absent else sum(ledger.spent(str(target.policy["dataset"])).history.values())
    rows_checked = 0 if ledger.files.absent else ledger.verify()
    return [*lines, f"The ledger afterwards: {rows_checked} rows, each checked; {spent} releases charged.", ""]


def main() -> int:
    """Run all of it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--random", type=int, default=1000)
    options.add_argument("--seed", type=int, default=11)
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    failed: Failed = []
    lines = [
        "# Attacks on a site's daemon",
        "",
        f"{datetime.date.today()}, `python -m tests.real.hostile --random {asked.random} --seed {asked.seed}`, "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}.",
        "A real daemon, over its socket. Each refusal is asserted by its code and costs nothing; each reply is asserted to be paid",
        "for in the ledger, finite, within the public bounds and without a number that the policy does not list. Where one step",
        "of SGD shows a release as it is, its root mean square is the noise that was charged and what 20 clipped images can add,",
        "and no row of it looks like an image: by chance correlations reach 0.3, the attack that once got through had 0.96.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        arrays = weights(from_json(honest_text()))
        random = [("random: all", lambda target: randomly(target, asked.seed, asked.random))]
        for title, policy, cases in (
            ("Refused", guarded(), refusals(arrays)),
            ("Taken, and charged", generous(), accepted()),
            (f"{asked.random} random mutations", generous(), random),
        ):
            target = Target(Path(folder) / title.split()[0], policy)
            try:
                kinds = run(target, cases, failed)
                target.no_trace()
                lines += section(title, target, kinds if "random" not in kinds else Counter({"random": asked.random}))
            finally:
                target.site.stop()
    lines += [f"Cases that did not hold: {len(failed)}.", *(f"- {name}" for name in failed)]
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.out is not None:
        write_atomic(asked.out, text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
