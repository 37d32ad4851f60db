"""Rules between keys: pairs with a name, options that belong to one name, and what differential privacy refuses."""

from __future__ import annotations

import pytest

from mpssl_fed import config as configs
from mpssl_fed.config import METHODS, Config
from mpssl_fed.config.data import PARTITION_OPTIONS
from mpssl_fed.config.federation import STRATEGY_OPTIONS
from mpssl_fed.config.learning import CONTROLS, LAMBDA, METHOD_DEFAULTS, Method
from mpssl_fed.errors import UserError

PRIVATE = ("privacy.epsilon=8", "privacy.public_size=100", "privacy.delta=1e-4")


def _config(*words: str) -> Config:
    return configs.from_mapping(configs.override({}, words))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_its_pair(name: str) -> None:
    method = _config(f"method.name={name}").method
    assert (method.source, method.loss) == METHODS[name]
    assert method.lambda_ == LAMBDA.get(METHODS[name][1], 1.0)
    assert _config(f"method.name={name}", f"method.source={METHODS[name][0]}").method == method


def test_a_named_method_brings_defaults_that_the_user_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    plus = _config("method.name=mp-ssl+").method
    assert (plus.buffer * plus.batch, plus.random_share) == (1440, 0.5)
    own = _config("method.name=mp-ssl+", "method.buffer=2", "method.gap.weight=0").method
    assert (own.buffer, own.random_share, own.gap.weight) == (2, 0.5, 0)
    assert _config("method.name=null", "method.source=meta-optimised", "method.loss=vicreg").method.buffer == 4
    assert configs.from_json(_config("method={name: mp-ssl+, buffer: 7}").canonical_json()).method.buffer == 7
    monkeypatch.setitem(METHOD_DEFAULTS, "mp-ssl+", {"gap": {"per_class": False}, "latent": {"temperature": 0.5}})
    nested = _config("method={name: mp-ssl+, gap: {weight: 3}, latent: {temperature: 0.7}}").method
    assert (nested.gap.weight, nested.gap.per_class, nested.latent.temperature, nested.buffer) == (3, False, 0.7, 4)


def test_defaults_of_methods_are_keys_of_the_section() -> None:
    assert set(METHOD_DEFAULTS) <= set(METHODS)
    for name, defaults in METHOD_DEFAULTS.items():
        assert not {"name", "source", "loss"} & set(defaults)
        Method.model_validate({"name": name} | defaults)


def test_controls_are_methods_that_set_more() -> None:
    assert _config("method.name=fedprox").federation.strategy.proximal_mu == 0.01
    assert _config("method.name=fedprox", "federation.strategy.proximal_mu=0.5").federation.strategy.proximal_mu == 0.5
    assert {name: _config(f"method.name={name}").model.name for name in CONTROLS if name.startswith("linear")} == {
        "linear-random": "random", "linear-pixels": "pixels", "linear-hog": "hog",
    }  # fmt: skip
    assert _config("method.name=generator-only").warm_start.part == "both"
    assert _config("method.name=generator-only", "warm_start.part=head").warm_start.part == "head"
    for name in CONTROLS:
        config = _config(f"method.name={name}")
        assert (config.method.source, config.method.loss) == ("none", "none")
        assert configs.from_json(config.canonical_json()).canonical_json() == config.canonical_json()


def test_the_recipe_is_a_warm_start_and_an_anchor_which_the_user_may_tune() -> None:
    recipe = _config("method.name=federated-gssl")
    assert (recipe.method.source, recipe.warm_start.part, recipe.federation.anchor.weight) == ("none", "auto", 0.3)
    spelt = _config("method.name=base", "warm_start.part=auto", "federation.anchor.weight=0.3")
    assert (recipe.warm_start, recipe.federation) == (spelt.warm_start, spelt.federation)
    own = _config("method.name=federated-gssl", "warm_start.part=both", "federation.anchor={weight: 0.5, images: 64}")
    assert (own.warm_start.part, own.federation.anchor.weight, own.federation.anchor.images) == ("both", 0.5, 64)
    assert configs.from_json(own.canonical_json()) == own
    for without in ("warm_start.part=none", "federation.anchor.weight=0"):
        with pytest.raises(UserError, match=rf"federated-gssl is a warm start and an anchor, but {without}.* is given"):
            _config("method.name=federated-gssl", without)


def test_a_study_or_command_line_may_turn_any_config_into_the_recipe_and_back() -> None:
    """What a file sets against the recipe gives way, what it says beside it stays."""
    file = {
        "method": {"name": "vic-gssl"},
        "warm_start": {"part": "none", "steps": 50},
        "federation": {"sites": 3, "anchor": {"weight": 0.0, "images": 64}},
    }
    there = configs.override(file, ["method.name=federated-gssl"])
    config = configs.from_mapping(there)
    assert (config.warm_start.part, config.warm_start.steps) == ("auto", 50)
    assert (config.federation.sites, config.federation.anchor.weight, config.federation.anchor.images) == (3, 0.3, 64)
    back = configs.from_mapping(configs.override(config.dump(), ["method.name=base"]))
    assert (back.warm_start.part, back.federation.anchor.weight, back.federation.anchor.images) == ("none", 0.0, 64)
    kept = configs.from_mapping(configs.override(config.dump(), ["method.name=base", "federation.anchor.weight=1"]))
    assert (kept.warm_start.part, kept.federation.anchor.weight) == ("none", 1.0)


def test_pairs_of_ones_own() -> None:
    method = _config("method.source=random", "method.loss=scr-stopgrad").method
    assert (method.name, method.lambda_) == (None, 1.0)
    assert _config("method.name=null", "method.source=random", "method.loss=vicreg", "method.lambda=0").method.lambda_ == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.name=mp-ssl", "method.loss=vicreg"], "mp-ssl means source=meta-optimised and loss=scr, but loss=vicreg"),
        (["method.name=mpssl"], r"unknown method.name 'mpssl'. Did you mean 'mp-ssl'\?"),
        (["method.name=null"], "give both method.source and method.loss"),
        (["method.source=random"], "give both method.source and method.loss"),
        (["method.source=none", "method.loss=scr"], "either both are none or neither is"),
        (["method.source=random", "method.loss=none"], "either both are none or neither is"),
        (["method.name=mp-ssl", "method.hold_out=false"], "would validate on images that it trains on; set it to null"),
        (
            ["method.name=base-train-only", "method.hold_out=false"],
            "means method.hold_out=True, but method.hold_out=False is given",
        ),
        (["method.name=linear-hog", "model.name=resnet18"], "method.name=linear-hog means model.name=hog, but model.name=resnet18"),
        (["method.name=fedprox", "federation.strategy.name=krum"], "means federation.strategy.name=fedprox, but .*=krum is given"),
        (["method.name=generator-only", "warm_start.part=body"], "the generator must teach the head"),
        (["data.labels_per_class=3", "data.label_fraction=0.1"], "both set; set one of them to null"),
        (["federation.sites=2", "federation.min_sites=3"], "min_sites=3 is more than sites=2"),
    ],
)
def test_contradictions(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _config(*words)


def test_a_label_fraction_replaces_the_default_count() -> None:
    assert _config("data.label_fraction=0.1").data.labels_per_class is None


OWNED = [
    (section, name, option, value)
    for section, table in (("data.partition", PARTITION_OPTIONS), ("federation.strategy", STRATEGY_OPTIONS))
    for name, options in table.items()
    for option, value in options.items()
]


@pytest.mark.parametrize(("section", "name", "option", "default"), OWNED)
def test_an_option_belongs_to_its_name(section: str, name: str, option: str, default: object) -> None:
    def part(*words: str) -> object:
        found: object = _config("federation.sites=9", *words)  # krum needs several
        for key in section.split("."):
            found = getattr(found, key)
        return found

    assert getattr(part(f"{section}.name={name}"), option) == default
    assert getattr(part(f"{section}.name={name}", f"{section}.{option}={default}"), option) == default
    table = PARTITION_OPTIONS if section == "data.partition" else STRATEGY_OPTIONS
    for other in (other for other, options in table.items() if option not in options):
        with pytest.raises(UserError, match=rf"key '{option}' belongs to .*{name}.*, not to '{other}'"):
            part(f"{section}.name={other}", f"{section}.{option}={default}")
        assert getattr(part(f"{section}.name={other}"), option) is None


def test_a_plug_ins_options_pass_as_they_are() -> None:
    strategy = _config("federation.strategy.name=theirs", "federation.strategy.options={alpha: 3}").federation.strategy
    assert strategy.options == {"alpha": 3}


def test_privacy_is_off_until_epsilon_is_set_and_then_end_to_end() -> None:
    assert _config().privacy.scope == "off"
    assert _config(*PRIVATE).privacy.scope == "end-to-end"
    assert _config(*PRIVATE, "privacy.scope=off").privacy.on is False


def test_off_and_no_are_words_in_yaml_and_true_is_not() -> None:
    config = _config("runtime.autocast=off", "warm_start.class_map={no: yes}", "data.download=true", "output.overwrite=yes")
    assert config.runtime.autocast == "off"
    assert config.warm_start.class_map == {"no": "yes"}
    assert config.data.download is config.output.overwrite is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["privacy.epsilon=8"], "needs privacy.public_size; public_size is a round number of images that a site declares"),
        (["privacy.epsilon=8", "privacy.unit=subject"], "a round number of subjects that a site declares"),
        (["privacy.scope=end-to-end", "privacy.public_size=100"], "needs privacy.epsilon$"),
        (["privacy.scope=labelled-step"], "needs privacy.epsilon and privacy.public_size"),
        ([*PRIVATE, "privacy.delta=0.0011"], r"delta=0.0011 is above 1/\(10 public_size\) = 0.001"),
        ([*PRIVATE, "privacy.public_size=1001"], r"above 1/\(10 public_size\)"),
        ([*PRIVATE, "optim.batch_size=32"], "optim.batch_size=32 is refused under differential privacy"),
        ([*PRIVATE, "model.norm=batch"], "model.norm=batch is refused under differential privacy"),
        ([*PRIVATE, "privacy.scope=labelled-step", "model.norm=batch"], "model.norm=batch is refused"),
        ([*PRIVATE, "privacy.sample_rate=0"], "privacy.sample_rate=0: .*greater than 0"),
        ([*PRIVATE, "privacy.epochs=3"], "unknown key 'privacy.epochs'"),
        ([*PRIVATE, "optim.epochs=3"], "unknown key 'optim.epochs'"),
    ],
)
def test_what_differential_privacy_refuses(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _config(*words)


def test_what_is_refused_under_privacy_is_fine_without() -> None:
    config = _config(
        "optim.batch_size=32", "model.norm=batch", "privacy.public_size=1001", "privacy.delta=0.01", "privacy.scope=off"
    )
    assert (config.optim.batch_size, config.model.norm) == (32, "batch")


def test_delta_may_equal_its_bound() -> None:
    assert _config(*PRIVATE, "privacy.delta=0.001").privacy.delta == 0.001


@pytest.mark.parametrize("key", ["data.test_limit", "federation.rounds", "method.lmo_batch", "privacy.public_size"])
@pytest.mark.parametrize("count", [2**31, 10**18, 2**63])
def test_no_count_is_beyond_what_can_be_counted(key: str, count: int) -> None:
    with pytest.raises(UserError, match=rf"{key.rpartition('.')[2]}={count}: want at most 2,147,483,647"):
        _config(f"{key}={count}")


def test_a_seed_counts_nothing() -> None:
    assert _config(f"seed={2**63}").seed == 2**63
