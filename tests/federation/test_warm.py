from __future__ import annotations

import pytest
import torch

from mpssl_fed.config import from_mapping
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.server import warm
from mpssl_fed.method.warm_start import body_classes, taught, warm_start

FIELDS = {
    "data": {"labels_per_class": 1},
    "model": {"name": "pixels"},
    "warm_start": {"part": "head", "steps": 2, "batch": 2},
    "federation": {"sites": 2, "rounds": 1, "local_steps": 1},
}
PRIVATE = {"privacy": {"epsilon": 1, "public_size": 20, "delta": 1e-3}}


def test_cells_that_differ_past_the_warm_start_share_it_and_get_the_weights_it_alone_would_give() -> None:
    warm._trained.cache_clear()
    config = from_mapping(FIELDS)
    alone = parts.initial_classifier(config)
    generator = parts.generator(config)
    assert generator is not None
    warm_start(config, alone, generator, parts.dataset(config).flip)
    other_labels = {"data": {"labels_per_class": 2, "partition": {"name": "dirichlet"}, "held_out": "validation"}}
    others = ({}, PRIVATE | {"optim": {"lr": 0.5}}, other_labels)
    for other in (from_mapping(FIELDS | fields) for fields in others):
        classifier = parts.initial_classifier(other)
        warm.start_warm(other, classifier)
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), classifier.parameters(), strict=True))
        with torch.no_grad():
            classifier.head.weight.zero_()  # a run changes its own weights, not those of the next
    assert warm._trained.cache_info().misses == 1


def test_another_seed_or_another_warm_start_is_trained_anew() -> None:
    warm._trained.cache_clear()
    for fields in (FIELDS, FIELDS | {"seed": 1}, FIELDS | {"warm_start": {"part": "head", "steps": 3, "batch": 2}}):
        config = from_mapping(fields)
        warm.start_warm(config, parts.initial_classifier(config))
    assert warm._trained.cache_info().misses == 3


def test_a_body_learns_no_class_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of digits and letters the digits are left out: none of them is ever drawn, nor named by the throw-away head's targets."""
    config = from_mapping(
        {"model": {"name": "small-cnn"}, "generator": {"name": "glyphs-digits"}}
        | {"warm_start": {"part": "body", "steps": 3, "batch": 64, "without": ["[0-5]", "6", "7", "8", "9"]}}
    )
    generator = parts.generator(config)
    assert generator is not None
    drawn: set[str] = set()
    forward = generator.forward

    def watched(z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        drawn.update(generator.classes[i] for i in label.argmax(1).tolist())
        return forward(z, label)

    monkeypatch.setattr(generator, "forward", watched)
    classifier = parts.initial_classifier(config)
    warm_start(config, classifier, generator, flip=False)
    assert len(drawn) > 10
    assert not drawn & set("0123456789")
    assert body_classes(generator.classes, ()).tolist() == list(range(len(generator.classes)))


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (("greek *",), "no class of the generator fits 'greek [*]'"),
        (("*",), r"leaves 0 .* want two or more"),
        (("[!a]",), "leaves 1"),
    ],
)
def test_what_cannot_be_left_out_is_said(without: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=rf"warm_start\.without.*{words}"):
        body_classes(("a", "b", "c"), without)


@pytest.mark.parametrize(
    ("class_map", "task", "part"),
    [
        ({}, ("0", "1"), "both"),
        ({}, ("1", "zero"), "body"),
        ({"0": "zero", "1": "one"}, ("one", "zero"), "both"),
        ({"0": "zero"}, ("one", "zero"), "body"),
    ],
)
def test_auto_teaches_the_head_where_the_generator_knows_every_class(
    class_map: dict[str, str], task: tuple[str, ...], part: str
) -> None:
    settings = from_mapping({"warm_start": {"part": "auto", "class_map": class_map}}).warm_start
    assert taught(settings, ("0", "1", "2"), task) == part
    for told in ("none", "body", "head", "both"):
        assert taught(settings.model_copy(update={"part": told}), ("0", "1", "2"), task) == told


@pytest.mark.parametrize(("generator", "moved"), [("glyphs-digits", {"body", "head"}), ("glyphs-letters", {"body"})])
def test_a_run_told_auto_starts_what_the_generator_can_teach(generator: str, moved: set[str]) -> None:
    fields = {"generator": {"name": generator}, "warm_start": {"part": "auto", "steps": 2, "batch": 4}}
    config = from_mapping(fields)
    classifier = parts.initial_classifier(config)
    before = {name: p.detach().clone() for name, p in classifier.named_parameters()}
    warm.start_warm(config, classifier)
    assert {name.split(".")[0] for name, p in classifier.named_parameters() if not torch.equal(p, before[name])} == moved
    told = from_mapping(fields | {"warm_start": {"part": "body" if moved == {"body"} else "both", "steps": 2, "batch": 4}})
    as_told = parts.initial_classifier(told)
    warm.start_warm(told, as_told)
    assert all(torch.equal(a, b) for a, b in zip(classifier.parameters(), as_told.parameters(), strict=True))


def test_no_warm_start_leaves_the_weights() -> None:
    config = from_mapping(FIELDS | {"warm_start": {"part": "none"}})
    classifier, before = parts.initial_classifier(config), parts.initial_classifier(config)
    warm.start_warm(config, classifier)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), classifier.parameters(), strict=True))
