"""Every number on a dossier is found again in the file that it cites; there is none beside them."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mpssl_fed.config import from_mapping
from mpssl_fed.dossier.spending import BY_CURVE, FOUND, TRADE_OFF
from mpssl_fed.dossier.subject import DEFAULT
from mpssl_fed.federation.server.confusion import told
from mpssl_fed.privacy.policy import Policy
from tests.dossier.pages import HOUSE, Cited, Files, Page, call, fixtures
from tests.dossier.test_odds import exact
from tests.report.test_deployed import PRIVATE
from tests.study.runs import write_run

FIXED = (
    r"GDPR, Article [69]", r"(Zhou|Viswanath|Su) 20(10|15|22)", r"of every 100 \w+s that were there", r"accuses 1 of 100",
    r"mpssl-fed [\d.]+", r"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC",
)  # fmt: skip
"""What the page's own words may say in digits."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Page, Files]]:
    """Dossiers of a private run with an audit, one without privacy, a site with two runs, one audited, and a deployed run."""
    folder = fixtures(tmp_path_factory.mktemp("dossiers") / "old")
    state, policy = folder / "state" / "image", folder / "state" / "image" / "policy.yaml"
    shutil.copy(folder / "policy.yaml", policy)
    shutil.copytree(folder / "run" / "sites" / "0" / "audit", state / "audit")
    deployed = write_run(folder / "deployed", [0.1, 0.5], PRIVATE)
    found = {}
    for name, where, rules in (
        ("private", "run", None),
        ("off", "run-off", None),
        ("site", state, policy),
        ("deployed", deployed, None),
    ):
        status, said = call("dossier", folder / where, *(["--policy", rules] if rules else []))
        assert status == 0, said
        found[name] = Page.of(folder / where / "dossier.html"), Files(folder / where, rules)
    return found


KINDS = ("private", "off", "site", "deployed")


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_found_in_the_file_that_it_cites(made: dict[str, tuple[Page, Files]], kind: str) -> None:
    page, files = made[kind]
    cited = [one for one in page.cited if not one.quote]
    assert len(cited) > {"private": 60, "off": 40, "site": 35, "deployed": 20}[kind]
    wrong = [one for one in cited if not stands(one, files)]
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_number_stands_beside_them(made: dict[str, tuple[Page, Files]], kind: str) -> None:
    page, files = made[kind]
    text = page.text
    for pattern in FIXED:
        text = re.sub(pattern, "", text)
    known = [
        str(row["run"]) for one in page.cited if one.file.endswith(".sqlite") for row in files.find(one.file, "data_sets.0.runs")
    ]
    known += [value for one in page.cited if one.key == "run_id" for value in [one.value.strip()]]
    lines = {(one.file, one.key.rpartition(".")[0]) for one in page.cited if ".lines." in one.key}
    known += [files.find(file, f"{line}.audit").strip() for file, line in lines]  # an audit names its tests by their sigma, too
    for name in [*known, "deployed"]:
        text = text.replace(name, "")
    text = re.sub(r"\b[Ss]ite (\d+)\b", lambda m: "" if (files.folder / "sites" / m[1]).is_dir() else m[0], text)
    text = re.sub(r"SHA-256|: sha256|mnist-5k|version: [\w-]+|numbers\.\d+\.auroc", "", text)
    assert re.findall(r".*\d.*", text) == []


def test_tables_of_counts_are_among_what_leaves(tmp_path: Path) -> None:
    """Noised ones of a run, with their noise; exact ones of a site whose owner lists them."""
    run = write_run(tmp_path / "run", [0.1, 0.5], {"federation": {"evaluate_at_sites": {"times": 1, "held_out": 0.3}}})
    *before, last = (run / "metrics.jsonl").read_text().splitlines()
    counts = np.eye(3)
    tables = told({0: (counts, 7.25), 2: (counts, 9.5)}, "abc", "image") | {"asked": 3, "missing": 1, "rejected": {}}
    (run / "metrics.jsonl").write_text("\n".join([*before, json.dumps(json.loads(last) | {"at_sites": tables})]) + "\n")
    status, said = call("dossier", run)
    assert status == 0, said
    page, files = Page.of(run / "dossier.html"), Files(run, None)
    cited = {one.key: one for one in page.cited}
    shown = {key: one.value.strip() for key, one in cited.items() if "at_sites" in key}
    assert shown == {
        "federation.evaluate_at_sites.times": "1", "federation.evaluate_at_sites.held_out": "0.3",
        "last.at_sites.sites.0.noise_std": "7.25", "last.at_sites.sites.2.noise_std": "9.5",
    }  # fmt: skip
    assert all(stands(cited[key], files) for key in shown)

    state, policy = fixtures(tmp_path / "old") / "state" / "image", tmp_path / "policy.yaml"
    rules = yaml.safe_load((state.parents[1] / "policy.yaml").read_text())
    policy.write_text(yaml.safe_dump(rules | {"scope": "off", "metrics": ["confusion"]}))
    status, said = call("dossier", state, "--policy", policy)
    assert status == 0, said
    assert "without noise where the scope is off" in (state / "dossier.html").read_text()


def test_a_value_that_is_not_the_files_is_found_out(made: dict[str, tuple[Page, Files]]) -> None:
    page, files = made["private"]
    for one in page.cited:
        if one.quote or not re.search(r"\d", one.value):
            continue
        digit = re.search(r"\d(?=\D*$)", one.value)
        assert digit
        other = one.value[: digit.start()] + str((int(digit[0]) + 5) % 10) + one.value[digit.end() :]
        assert not stands(Cited(one.file, one.key, one.how, False, other), files), one


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_quoted_stands_in_the_docs_word_for_word(made: dict[str, tuple[Page, Files]], kind: str) -> None:
    quotes = [one for one in made[kind][0].cited if one.quote]
    assert {one.key for one in quotes} == {
        "The promise", "Who can learn what", "What a server can still choose", "What is not protected", "Audits",
        "Pitfalls, and the test that guards each",
    }  # fmt: skip
    for one in quotes:
        page = (HOUSE / one.file).read_text().split(f"\n## {one.key}\n")[1].split("\n## ")[0]
        page = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", page)
        said = squeezed(page)
        for line in filter(None, map(squeezed, one.value.splitlines())):
            assert line in said, line
    risks = next(one for one in quotes if one.key == "What is not protected").value
    assert "The same person at two sites" in risks
    assert "Timing" in risks


def squeezed(text: str) -> str:
    return " ".join(re.sub(r"[*`]", "", text).split())


def stands(one: Cited, files: Files) -> bool:
    """Whether the value is that of the file, or follows from it."""
    value = " ".join(one.value.split())
    if one.how == DEFAULT:
        with pytest.raises(KeyError):
            files.find(one.file, one.key)
        found = default_of(one)
        return value == as_text(found)
    found = files.find(one.file, one.key)
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", value)]
    if one.how in (TRADE_OFF, BY_CURVE, FOUND):
        if one.how == TRADE_OFF:
            delta = files.find(one.file, re.sub(r"\w+$", "delta", one.key))
            least, most = (math.exp(found) + delta) / (1 + math.exp(found)), 0.001
        else:
            chance, rate = exact({(sigma, q): n for sigma, q, n in found})
            least, most = (chance - 1e-3 if one.how == BY_CURVE else rate - 1e-3), 0.006
        return numbers[:-1] in ([], [50.0]) and 0 <= numbers[-1] / 100 - least + 1e-9 <= most + 2e-9
    if one.key.endswith("unaccounted"):
        return bool(found)
    if one.how:  # all licences, each once
        return value.split(", ") == sorted({name for font in found for name in font["licences"]})
    return value == as_text(found) or rounded(value, found) or explained(one, found)


def default_of(one: Cited) -> Any:
    if Path(one.file).name == "policy.yaml":
        value = json.loads(Policy(dataset="any", public_size=1, max_epsilon=1, delta=1e-5).model_dump_json())
        for part in one.key.split("."):
            value = value[part]
        return value
    found: Any = from_mapping({}).dump()
    for part in one.key.split("."):
        found = found[part]
    return found


def as_text(found: Any) -> str:
    if isinstance(found, dict) and found.keys() >= {"value", "low", "high"}:
        return f"{found['value']} [{found['low']}, {found['high']}]"
    if isinstance(found, list):
        return ", ".join(map(as_text, found)) or "none"
    return "none" if found is None else {"True": "yes", "False": "no"}.get(str(found), str(found))


def rounded(value: str, found: Any) -> bool:
    """Whether it is the number with three decimals, an epsilon spent rounded up, what is left rounded down."""
    return isinstance(found, float) and bool(re.fullmatch(r"\d+\.\d{3}", value)) and abs(float(value) - found) <= 0.001


def explained(one: Cited, found: Any) -> bool:
    """Whether it is a word of the file with what it means behind it."""
    said = {"method.source": "none is used by this method", "privacy.scope": "none: the scope is off"}
    value = one.value.strip()
    meant = value == said.get(one.key) and found in ("none", "off")
    return meant or (one.key == "privacy.scope" and value.startswith(f"{found}: ")) or found == {}
