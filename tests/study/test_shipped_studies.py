"""The studies that ship: the promised grids, and a dry run that builds everything without data, weights or a network."""

from __future__ import annotations

import itertools
import json
import socket
from collections import Counter
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from mpssl_fed.cli import build
from mpssl_fed.config import METHODS, config_folder
from mpssl_fed.config.learning import BUNDLES
from mpssl_fed.data import fine_grained
from mpssl_fed.data.datasets import load_dataset, validation_split
from mpssl_fed.errors import UserError
from mpssl_fed.study.dry_run.built import LAYERS
from mpssl_fed.study.dry_run.estimate import estimate
from mpssl_fed.study.dry_run.known_data import KNOWN
from mpssl_fed.study.grid import Plan, arm_of, load_study
from mpssl_fed.study.selection import baseline_of
from tests.study.runs import plan_of

ALL = set(METHODS) - set(BUNDLES)


def values(plan: Plan, key: str) -> set[object]:
    """Return the values of a grid key."""
    return {cell.settings[key] if not isinstance(cell.settings[key], dict) else cell.settings[key]["name"] for cell in plan.cells}


def test_the_papers_study() -> None:
    plan = load_study("paper-10pct")
    assert len(plan.cells) == 6 * len(ALL) * 3
    assert values(plan, "method.name") == ALL
    assert {cell.config.data.name for cell in plan.cells} == {"aircraft", "birds", "cars", "dtd", "flowers", "pets"}
    for cell in plan.cells:
        config = cell.config
        assert (config.data.size, config.data.label_fraction, config.federation.sites) == (224, 0.1, 1)
        assert (config.generator.name, config.model.name, config.optim.batch_size) == ("biggan-deep-256", "resnet18", 64)


def test_every_method_at_one_site() -> None:
    plan = load_study("methods-one-site")
    assert values(plan, "variant") == ALL
    assert all(cell.config.method.name == cell.settings["variant"] for cell in plan.cells)
    assert values(plan, "data.labels_per_class") == {1, 4}
    assert values(plan, "warm_start.part") == {"none", "body"}
    assert {(cell.config.data.name, cell.config.federation.sites) for cell in plan.cells} == {("mnist-5k", 1)}
    arms = plan.arms()
    assert len(arms) == len(ALL) * 2 * 2 + 2  # and weakly augmented labels alone
    primary = [
        (arms[one]["variant"], arms[other]["variant"], arms[other]["warm_start.part"], arms[one]["data.labels_per_class"])
        for one, other in plan.primary()
    ]
    assert {arms[one]["warm_start.part"] for one, _ in plan.primary()} == {"body"}
    assert primary == [
        ("mp-ssl", "base", "none", 1),
        ("mp-ssl", "base", "none", 4),
        *(("mp-ssl", rival, "body", 1) for rival in ("base", "mp-ssl-wo-lmo", "mp-ssl-wo-scr")),  # each ablation, not base alone
        ("vic-gssl", "base", "body", 1),
    ]
    assert plan.study.baseline == [{"variant": rival} for rival in ("base", "mp-ssl-wo-lmo", "mp-ssl-wo-scr")]
    assert len(plan.first) == len(arms) * 5 + 8 * 5  # and 5 more of the arms of primary comparisons
    assert len(plan.cells) == len(plan.first) + 8 * 10
    assert len({cell.config.federation.rounds * cell.config.federation.local_steps for cell in plan.cells}) == 1


ABLATIONS = {"mp-ssl-wo-lmo": "mp-ssl", "mp-ssl-wo-scr": "mp-ssl"}
"""Method -> the one that it leaves something out of."""


@pytest.mark.parametrize("name", sorted({file.stem for file in (config_folder() / "studies").glob("*.yaml")} - {"tuning"}))
def test_a_method_is_compared_with_each_of_its_ablations(name: str) -> None:
    """Against ``base`` alone a gain may be that of a part that the ablation has too. Tuning chooses settings and claims nothing."""
    plan = load_study(name)
    configs = {arm_of(cell.settings): cell.config for cell in plan.first}
    other, methods = {}, {}
    for arm, config in configs.items():
        fields = config.dump()
        methods[arm] = fields.pop("method")["name"]
        del fields["optim"], fields["seed"]  # of which tuning chose others for each
        other[arm] = json.dumps([fields, config.method.augment], sort_keys=True)
    named = {frozenset(pair) for pair in (*plan.primary(), *plan.asked())}
    arms = plan.arms()
    named |= {
        frozenset((arm, rival))
        for arm, own in arms.items()
        for one in plan.study.baseline
        if (rival := baseline_of(own, one, arms))
    }
    pairs = [
        (a, b)
        for a in arms
        for b in arms
        if methods[a] in ABLATIONS and ABLATIONS[methods[a]] == methods[b] and other[a] == other[b]
    ]
    assert len(pairs) == {"methods-one-site": 2 * 4, "paper-10pct": 2 * 6}.get(name, 0)
    assert [pair for pair in pairs if frozenset(pair) not in named] == []


def test_tuning_is_the_same_for_every_method_and_does_not_read_the_test_set() -> None:
    plan = load_study("tuning")
    assert {cell.config.data.held_out for cell in plan.cells} == {"validation"}
    trials = Counter(cell.config.method.name for cell in plan.cells)
    assert set(trials) == ALL
    assert set(trials.values()) == {4 * 2}
    measured = {cell.config.seed for cell in load_study("methods-one-site").cells}
    assert not measured & {cell.config.seed for cell in plan.cells}


def test_one_change_at_a_time_to_latent_meta_optimisation() -> None:
    plan = load_study("latents")
    changed = {cell.settings["variant"]: cell.config.method for cell in plan.cells}
    plain = changed["lmo + vicreg"].model_dump()
    differing = {
        name: [key for key, value in method.model_dump().items() if value != plain[key]] for name, method in changed.items()
    }
    assert {name: len(keys) for name, keys in differing.items() if name not in ("base", "random + vicreg")} == {
        "lmo + vicreg": 0, "large buffer, half random (mp-ssl+)": 2, "global gap": 1, "no gap": 1, "strong look-ahead": 1,
        "cool converter": 1, "slow converter": 1, "lmo every step": 1,
    }  # fmt: skip


def test_the_federated_study() -> None:
    plan = load_study("methods-federated")
    assert values(plan, "data.partition") == {"iid", "dirichlet", "pathological"}
    assert values(plan, "generator.name") == {"glyphs-digits", "glyphs-letters"}
    assert {cell.config.federation.sites for cell in plan.cells} == {5}
    combined = {
        (c.config.method.name, c.config.federation.anchor.weight > 0, c.config.warm_start.part) for c in plan.cells
        if c.config.model.name == "small-cnn" and c.config.federation.strategy.name == "fedavg"
    }  # fmt: skip
    pays = {(m, a, w) for m in ("base", "mp-ssl", "vic-gssl") for a in (False, True) for w in ("none", "body")}
    assert combined == pays | {("ssl-real", False, "none"), ("generator-only", False, "both")}
    assert {cell.config.model.name for cell in plan.cells} == {"small-cnn", "random", "pixels", "hog"}
    assert {cell.config.federation.strategy.name for cell in plan.cells} == {"fedavg", "fedprox"}
    assert len(plan.cells) == (12 * 2 * 3 * 2 + 5 * 3 * 2 + 1) * 5
    with_base = {(c.settings["generator.name"], str(c.settings["data.partition"]), c.settings["method.augment"]) for c in plan.cells
                 if c.settings["variant"] == "base"}  # fmt: skip
    assert len(with_base) == 2 * 3 * 2  # every arm has a baseline to be compared with
    kept = load_study("methods-federated-half-strong").cells
    assert {cell.sha256 for cell in kept} < {cell.sha256 for cell in plan.cells}  # so that its table continues the full grid
    assert len(kept) == (12 + 8 + 8 * 2 + 4 + 5 * 3 + 1) * 5


def test_a_dry_run_touches_neither_data_nor_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> NoReturn:
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(build(), ["study", "paper-10pct", "method.name=[base,p-ssl,mp-ssl]", "--dry-run"])
    assert result.exit_code == 0, result.exception
    assert "54 cells: 18 arms x 3 seeds" in result.output
    assert "missing: weights of biggan-deep-256 (mpssl-fed fetch biggan-deep-256)" in result.output
    for name in ("aircraft", "birds", "cars", "dtd", "flowers", "pets"):
        assert f"missing: data.root data/{name} (mpssl-fed fetch {name})" in result.output
    assert "missing: model.pretrained data/resnet18-f37072fd.pth" in result.output
    assert "missing: p-ssl's ImageNet classifier" in result.output
    assert "55,880,833" in result.output  # BigGAN-deep at 256 px: the published file holds 56 million floats
    assert f"{11_176_512 + 513 * 200:,}" in result.output  # torchvision's ResNet-18 without its head, and a head of 200 birds
    assert f"{2000 // 5 * 48 + (2000 // 5 - 1) * 24:,}" in result.output
    assert list(tmp_path.iterdir()) == []


def test_published_generators_have_their_sizes() -> None:
    for name, layers in LAYERS.items():
        assert 4 * 2 ** sum(bool(up) for up, _, _ in layers) == int(name.rpartition("-")[2])
        assert all(before[2] == after[1] for before, after in itertools.pairwise(layers))


def test_what_a_dry_run_knows_of_the_data_is_so() -> None:
    data, known = load_dataset("mnist-5k"), KNOWN["mnist-5k"]
    assert (known.classes, known.train, known.test) == (len(data.classes), len(data.train), len(data.test))
    assert (known.channels, known.size, known.flip) == (data.channels, data.size, data.flip)
    assert known.stored_bytes(32) == data.train.x.nbytes + data.test.x.nbytes
    tuned, known_tuned = validation_split(data, 0.15), known.validation_split(0.15)
    assert (known_tuned.train, known_tuned.test) == (len(tuned.train), len(tuned.test))
    for name in ("aircraft", "birds", "cars", "dtd", "flowers", "pets"):
        line = f"{KNOWN[name].train:,} + {KNOWN[name].test:,}"
        assert any(line in text and name in text.lower() for text in str(fine_grained.__doc__).splitlines()), name


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"data.name": ["mnist-5k"], "data.labels_per_class": [400]}, "it has 300"),
        ({"data.name": ["mnits-5k"]}, "Did you mean 'mnist-5k'?"),
        ({"data.partition": [{"name": "pathological", "classes_per_site": 1}]}, "covers at most 2 of 10 classes"),
        ({"generator.name": ["glyphs-digit"]}, "Did you mean 'glyphs-digits'?"),
        ({"method.loss": ["ssr"], "method.source": ["random"], "method.name": [None]}, "Did you mean 'scr'?"),
        ({"federation.strategy.name": ["fedavgg"]}, "Did you mean 'fedavg'?"),
        ({"model.name": ["resnet19"]}, "Did you mean 'resnet18'?"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(tmp_path: Path, grid: dict[str, list[object]], words: str) -> None:
    with pytest.raises(UserError) as error:
        estimate(plan_of(tmp_path, grid=grid, seeds=1).cells[0])
    assert words in str(error.value)


def test_own_images_are_planned_without_an_estimate(tmp_path: Path) -> None:
    grid = {"data.name": ["image-folder"], "data.root": [str(tmp_path)]}
    assert estimate(plan_of(tmp_path, grid=grid, seeds=1).cells[0]) is None


def test_a_batch_of_any_size_is_estimated_without_being_made(tmp_path: Path) -> None:
    sizes = [20_000, 40_000, 2**31 - 1]
    plan = plan_of(tmp_path, grid={"method.name": ["mp-ssl"], "model.name": ["small-cnn"], "method.lmo_batch": sizes}, seeds=1)
    fewer, more, most = (found.memory for cell in plan.cells if (found := estimate(cell)))
    assert 1.9 < more / fewer < 2.1
    assert most > 1000 * more
