"""Every guard that docs/privacy.md names is a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

HOUSE = Path(__file__).parents[2]


def test_each_pitfall_is_guarded_by_a_test_that_exists() -> None:
    text = (HOUSE / "docs" / "privacy.md").read_text(encoding="utf-8")
    table = text.split("## Pitfalls", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        guards = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert guards, f"no guard: {row}"
        for file, name in guards:
            assert f"\ndef {name}(" in (HOUSE / file).read_text(encoding="utf-8"), f"{file} has no {name}"
