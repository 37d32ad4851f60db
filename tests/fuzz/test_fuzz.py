"""No config, no command line and no study file, however wrong, ends in a traceback or never.

Each case has a seed of its own, printed with what it was: put it into ``CASE`` below to run it alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mpssl_fed import config as configs
from mpssl_fed import simulate
from mpssl_fed.config import Config
from mpssl_fed.config.keys import keys_below
from mpssl_fed.config.plain import parse, to_yaml
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.privacy.policy import load_policy
from mpssl_fed.study.analysis import analyse
from mpssl_fed.study.dry_run.estimate import estimate
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import Cell, load_study
from mpssl_fed.study.report.finding import study_finding
from mpssl_fed.study.results import FINISHED, Row
from mpssl_fed.study.sequential import due
from tests.fuzz.ended import wrong_with, wrong_with_command
from tests.fuzz.mutate import odd_file, override, remove, value, yaml_of
from tests.study.runs import png

SEED = "bad input"
CASE: str | None = None
SHIPPED = sorted(configs.config_folder().rglob("*.yaml"))
RUNS = [file for file in SHIPPED if file.parent.name not in ("studies", "policies")]
STUDIES = [file for file in SHIPPED if file.parent.name == "studies"]
KEYS = keys_below(Config)


def cases(kind: str, count: int, first: int) -> list[str]:
    """Return the seeds of ``count`` cases."""
    return [CASE] if CASE else [f"{SEED}, {kind} {number}" for number in range(first, first + count)]


def put(file: Path, base: Callable[[], dict[str, Any]], random: Random) -> str:
    """Write nearly the YAML of ``base``, or what is none, to ``file`` and return it as text."""
    remove(file)
    if random.random() < 0.12:
        return odd_file(file, random)
    content = yaml_of(base(), random)
    file.write_bytes(content)
    return content.decode("utf-8", "replace")


def check(seeds: list[str], run: Callable[[Random], tuple[str, str | None]]) -> None:
    """Run every case and fail with the seed, the input and the end of those that end badly."""
    bad = []
    for seed in seeds:
        what, wrong = run(Random(seed))
        if wrong is not None:
            bad.append(f"--- {seed!r}\n{what[:3000]}\n{wrong}")
    assert not bad, f"{len(bad)} of {len(seeds)} cases end badly\n" + "\n".join(bad[:8])


def configs_of(count: int, first: int, folder: Path) -> None:
    """Try files that are nearly configs, as a run and a dry run read them."""
    file = folder / "own.yaml"

    def run(random: Random) -> tuple[str, str | None]:
        base = random.choice(RUNS)

        def fields() -> dict[str, Any]:
            short: dict[str, Any] = configs.read_mapping(base)
            return configs.from_mapping(short).dump() if random.random() < 0.4 else short  # every key spelt out: more to change

        content = put(file, fields, random)
        words = [override(KEYS, random) for _ in range(random.choice([0, 0, 1, 3]))]

        def case() -> None:
            config = configs.load(file, words)
            assert configs.from_json(config.canonical_json()).sha256() == config.sha256()
            assert configs.from_mapping(parse(config.to_yaml(), "again")) == config
            estimate(Cell(config, {}))

        return f"{base.name}, {words}\n{content}", wrong_with(case)

    check(cases("config", count, first), run)


EVERY_KEY: dict[str, Any] = {
    "title": "t", "note": "n", "base": {"data": {"test_limit": 20}, "method": {"name": "base"}},
    "variants": {"a": {"method.name": "base"}, "b": {"method.name": "vic-gssl"}, "c": {"method.name": "naive-gssl"}},
    "grids": [
        {"data.labels_per_class": [1, 2, 4], "method.augment": ["weak", "half-strong"]},
        {"variant": ["a"], "data.partition": [{"name": "dirichlet", "alpha": 0.3}]},
    ],
    "keep": [{"variant": ["a", "b"], "data.labels_per_class": [1, 4]}, {"variant": "c"}],
    "seeds": {"least": 3, "most": 6, "halfwidth": 0.01, "others": 2},
    "baseline": ["a", {"variant": "b"}],
    "primary": [{"arm": "b", "against": "a", "where": {"data.labels_per_class": [1, 4], "method.augment": "weak"}}],
    "compare": [{"arm": "c", "against": {"variant": "b"}, "where": {"data.labels_per_class": 1}}],
    "metric": "accuracy", "target_accuracy": 0.5, "workers": 1, "show": {"variant": "a", "data.labels_per_class": 1},
    "tuned": {"table": "table.csv", "keys": ["optim.lr"], "by": ["method.name"], "unless": [{"arm": "b", "why": "It is so."}]},
}  # fmt: skip
"""A study with every key that one may have, and one that extends it."""
PART: dict[str, Any] = {
    "extends": "every", "keep": [{"variant": "a"}], "seeds": 2, "primary": [], "show": None, "untuned": "Because it is so.",
    "base": {"optim": {"lr": 0.1}}, "baseline": "a", "compare": [],
}  # fmt: skip


def comparing_studies_of(count: int, first: int, folder: Path) -> None:
    """Try studies that declare, extend, keep and add seeds, up to the sentences about results that tie, vary and are missing."""
    file = folder / "study.yaml"
    own = ["seeds", "seeds.least", "seeds.most", "seeds.halfwidth", "baseline", "metric", "target_accuracy"]

    def run(random: Random) -> tuple[str, str | None]:
        part = random.random() < 0.4
        parent = yaml_of(EVERY_KEY, random) if random.random() < 0.3 else to_yaml(EVERY_KEY).encode()
        (folder / "every.yaml").write_bytes(parent)
        content = yaml_of(PART if part else EVERY_KEY, random)
        file.write_bytes(content)
        words = [override([*KEYS, *own * 8], random) for _ in range(random.choice([0, 0, 0, 1]))]

        def case() -> None:
            plan = load_study(file, words)
            (folder / "again.yaml").write_text(plan.to_yaml())
            assert load_study(folder / "again.yaml") == plan
            rows: dict[str, Row] = {}
            for _ in range(3):
                for cell in due(plan, rows)[:100]:
                    value = random.choice([0.5, 0.5, random.random()])
                    made = Row(cell.sha256, METHOD_VERSION, cell.seed, FINISHED, cell.settings, accuracy=value, best=value)
                    if random.random() < 0.9:
                        rows.setdefault(cell.sha256, made)
                outcome = Outcome(plan, folder, rows)
                assert study_finding(outcome, analyse(outcome))

        return f"{words}\n{content.decode('utf-8', 'replace')}\n{parent.decode('utf-8', 'replace')}", wrong_with(case)

    check(cases("comparing study", count, first), run)


def studies_of(count: int, first: int, folder: Path) -> None:
    """Try files that are nearly studies, with and without overrides."""
    file = folder / "study.yaml"

    def run(random: Random) -> tuple[str, str | None]:
        base = random.choice(STUDIES)
        content = put(file, lambda: configs.read_mapping(base), random)
        words = [override([*KEYS, "seeds", "metric", "workers", "baseline"], random) for _ in range(random.choice([0, 0, 1, 2]))]
        wrong = wrong_with(lambda: load_study(file, words).to_yaml())
        return f"{base.name}, {words}\n{content}", wrong

    check(cases("study", count, first), run)


def policies_of(count: int, first: int, folder: Path) -> None:
    """Try files that are nearly policies."""
    file = folder / "policy.yaml"

    def run(random: Random) -> tuple[str, str | None]:
        content = put(file, lambda: configs.read_mapping(configs.find("policies/site")), random)
        return content, wrong_with(lambda: load_policy(file))

    check(cases("policy", count, first), run)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, own images, a file and an empty folder."""
    folder = tmp_path_factory.mktemp("fuzz")
    private = ["privacy.epsilon=8", "privacy.public_size=100", "privacy.delta=1e-4", "privacy.sample_rate=0.1"]
    tiny = ["method.name=base", "data.test_limit=20", "federation.sites=2", "federation.rounds=1", "federation.local_steps=1"]
    simulate("demo", *tiny, *private, output=folder / "run")
    for name in ("cat", "dog"):
        (folder / "photos" / "train" / name).mkdir(parents=True)
        for number in range(3):
            (folder / "photos" / "train" / name / f"{number}.png").write_bytes(png(number + len(name) * ord(name[0])))
    (folder / "file").write_text("no config\n")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "dead").symlink_to("nothing")
    (folder / "loop").symlink_to("loop")
    (folder / "odd.yaml").write_bytes(b"data: &a {name: *a}\n")
    return folder


COMMANDS = [
    "data demo {o} {o}", "data demo {o} --sites {v}", "data {f} {o}", "data demo data.name=image-folder data.root={f} {o}",
    "privacy plan privacy/end-to-end federation.rounds=1 federation.local_steps=5 {o}", "privacy plan {f} --classes {v}",
    "policy check policies/site privacy/end-to-end federation.rounds=1 federation.local_steps=5 {o}", "policy check {f} demo",
    "study demo --dry-run {o} seeds=1", "study {f} --dry-run", "study demo --workers {v} --dry-run",
    "study demo --dry-run --from {f} seeds={v}", "predict {f} {f}", "predict run {f} --json", "predict run photos --csv",
    "predict run photos --device {v}", "evaluate run {f}", "evaluate run photos/train --bins {v}",
    "evaluate run photos/train --subjects {v}", "export run --format {v} --out {f}",
    "export {f} --format torch-export --out made/x.pt2", "report {f}", "audit {f} --what {v}", "ledger show {f}",
    "ledger show run/sites/0/ledger.sqlite --delta {v}", "ledger show run/sites/0/ledger.sqlite --policy {f}",
    "ledger verify {f}", "ledger export run/sites/0/ledger.sqlite --out {f}", "ledger restore {f} --gap {v}",
    "generate --generator {v} --out made/g.png", "generate --per-class {v} --classes A --out made/g.png",
    "generate --classes {v} --out {f}", "generate --truncation {v} --classes A --per-class 1 --out made/g.png",
    "generate --generator exported --path {f}", "certs ca {f}", "certs server {f} {v}", "certs site {f} --name {v}",
    "site status --state {f}", "site wipe --state {f}/x", "site {v}", "fetch {v}", "doctor --env {v}",
    "simulate demo --output run {o}", "simulate demo --output file {o}", "simulate {f} {o} --output run",
    "simulate demo --backend {v} --output run", "simulate demo --rounds {v} --output run", "{v} demo", "study --{v}", "certs {v}",
    "register {f} --ca {f}", "deploy demo --port {v} --output run", "deploy {f} --output run --sites {v}",
    "pretrain-generator --fonts {v} --out {f}",
]  # fmt: skip
"""Commands that are quick, or refused, whatever stands for {o} (an override), {v} (a value) and {f} (a file or folder)."""
FILES = [
    "run", "photos", "photos/train", "file", "empty", "none", "", ".", "file/x", "~nosuchuser",
    "x" * 300, "\udcff", "\u202etxt.exe", "pipe", "dead", "loop", "odd.yaml", "run/manifest.json", "run/model.safetensors",
    "run/sites", "run/sites/0",
]  # fmt: skip
STRAY = ["--help", "--json", "--overwrite", "--resume", "-x", "--", "", "=", "ä"]


def commands_of(count: int, first: int, folder: Path) -> None:
    """Try command lines that are nearly right."""

    def run(random: Random) -> tuple[str, str | None]:
        words = []
        for word in random.choice(COMMANDS).split():
            filled = word.replace("{o}", "", 1) and word
            if word == "{o}":
                filled = override(KEYS, random)
            some = str(value(random)).replace("\x00", "?").lstrip("/")  # root may write anywhere, and must not here
            filled = filled.replace("{v}", some).replace("{f}", random.choice(FILES))
            words.append(filled)
        if random.random() < 0.15:
            words.insert(random.randrange(len(words) + 1), random.choice(STRAY))
        if random.random() < 0.1:
            del words[random.randrange(len(words))]
        return json.dumps(words), wrong_with_command(words)

    check(cases("command", count, first), run)


def test_300_configs(tmp_path: Path) -> None:
    configs_of(300, 0, tmp_path)


def test_100_command_lines(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    commands_of(100, 0, place)


def test_60_study_files_and_30_policies(tmp_path: Path) -> None:
    studies_of(30, 0, tmp_path)
    comparing_studies_of(30, 0, tmp_path)
    policies_of(30, 0, tmp_path)


@pytest.mark.slow
def test_1000_configs(tmp_path: Path) -> None:
    configs_of(1000, 300, tmp_path)


@pytest.mark.slow
def test_300_command_lines(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    commands_of(300, 100, place)


@pytest.mark.slow
def test_400_study_files_and_100_policies(tmp_path: Path) -> None:
    studies_of(100, 30, tmp_path)
    comparing_studies_of(300, 30, tmp_path)
    policies_of(100, 30, tmp_path)
