"""Tuning on ``data.held_out=validation``: no image of the slice reaches a site, and every method and seed sees the same slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.evaluate import test_images as images_of
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.run_directory import RunDirectory

VALIDATION = "data.held_out=validation"


def _rows(x: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Callable[..., Config]:
    return lambda *words: tiny("data.test_limit=null", *words)


def test_the_slice_is_disjoint_from_labelled_unlabeled_and_test_images(config: Callable[..., Config]) -> None:
    test = images_of(config())
    slices = []
    for words in (["method.name=base"], ["method.name=ssl-real"], ["method.name=base", "seed=7", "federation.sites=2"]):
        tuned = config(VALIDATION, *words)
        held_out = images_of(tuned)
        assert held_out is not None
        assert test is not None
        assert len(held_out) == 600
        seen = [parts.labelled(tuned, site) for site in range(tuned.federation.sites)]
        more = [parts.unlabeled(tuned, site) for site in range(tuned.federation.sites)]
        given = set[bytes]().union(*(_rows(images.x) for images in [*seen, *more] if images is not None))
        assert len(given) == (2400 if tuned.method.source == "real" else 20 * tuned.federation.sites)
        assert not _rows(held_out.x) & (given | _rows(test.x))
        slices.append(_rows(held_out.x))
    assert slices[0] == slices[1] == slices[2]


def test_the_fraction_and_the_limit_are_obeyed(config: Callable[..., Config]) -> None:
    held_out = images_of(config(VALIDATION, "data.held_out_fraction=0.5"))
    assert held_out is not None
    assert len(held_out) == 1500
    some = images_of(config(VALIDATION, "data.test_limit=100"))
    assert some is not None
    assert len(some) == 100
    whole = images_of(config(VALIDATION))
    assert whole is not None
    assert _rows(some.x) <= _rows(whole.x)


def test_what_is_left_must_hold_the_labels(config: Callable[..., Config]) -> None:
    wanted = config(VALIDATION, "federation.sites=1", "data.labels_per_class=241")
    with pytest.raises(UserError, match="241 labelled images of class '0' are asked for in all, but it has 240"):
        parts.shares(wanted)
    with pytest.raises(UserError, match=r"data.labels_per_class=61 is the mean of each of 4 sites: set it to 60"):
        parts.shares(config(VALIDATION, "federation.sites=4", "data.labels_per_class=61"))
    with pytest.raises(UserError, match=r"data.labels_per_class=1 is the mean of each of 241 sites: lower federation.sites"):
        parts.shares(config(VALIDATION, "federation.sites=241", "data.labels_per_class=1"))
    assert len(parts.shares(config("federation.sites=1", "data.labels_per_class=241"))[0]) == 2410


def test_a_run_says_that_it_was_validated(run_tiny: Callable[..., RunDirectory]) -> None:
    run = run_tiny(VALIDATION, "data.test_limit=null", "federation.rounds=1")
    correct = 600 * read_history(run.folder)[-1].accuracy
    assert abs(correct - round(correct)) < 1e-6
    page = Path(write_run_report(run.folder)).read_text()
    assert "Evaluated on a validation part of the training pool" in page
    assert "Validation accuracy" in page
    assert "Test accuracy" not in page
