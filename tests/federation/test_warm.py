from __future__ import annotations

import pytest
import torch

from mpssl_fed.config import from_mapping
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.server import warm
from mpssl_fed.method.warm_start import body_classes, warm_start

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


def test_no_warm_start_leaves_the_weights() -> None:
    config = from_mapping(FIELDS | {"warm_start": {"part": "none"}})
    classifier, before = parts.initial_classifier(config), parts.initial_classifier(config)
    warm.start_warm(config, classifier)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), classifier.parameters(), strict=True))
