"""README's evidence is what the committed tables say, and no row advises what its interval does not bear out."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy import stats

from tools import evidence


def test_readme_and_plot_are_those_of_the_tables() -> None:
    for path, text in evidence.written().items():
        assert path.read_text(encoding="utf-8") == text, "run: python tools/evidence.py"


@pytest.mark.parametrize("row", evidence.ROWS, ids=lambda row: row.short)
def test_each_gain_against_scipy(row: evidence.Row) -> None:
    base, arm = (_read(row, extra) for extra in (row.base, row.arm))
    gains = [arm[seed] - base[seed] for seed in sorted(base.keys() & arm.keys())]
    assert len(gains) >= 5
    first = gains[:10]  # `recipe` adds seeds to ten of its own, and no other study has more than five
    low, high = stats.t.interval(0.95, len(first) - 1, np.mean(gains), np.std(first, ddof=1) / len(gains) ** 0.5)
    gain = evidence.measured(row)[2]
    assert gain.half is not None
    assert gain.n == len(gains)
    assert (gain.mean - gain.half, gain.mean + gain.half) == pytest.approx((low, high), abs=1e-9)
    assert row.how.startswith("nothing") == (low <= 0)
    assert evidence.LEAST < low < high < evidence.MOST  # the plot cuts nothing off


def _read(row: evidence.Row, extra: dict[str, str]) -> dict[int, float]:
    wanted = {**row.common, **extra}.items()
    with open(evidence.ROOT / "benchmarks" / "results" / f"{row.study}.csv", encoding="utf-8", newline="") as file:
        return {int(line["seed"]): 100 * float(line["accuracy"]) for line in csv.DictReader(file) if wanted <= line.items()}
