"""Slices of a meta-gradient are taken where they add up to it, and refused where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from mpssl_fed.errors import UserError
from tests.method.test_step import config, learner


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("mp-ssl", {"model": {"norm": "batch"}}, "model.norm=batch normalises over"),
        ("mp-ssl-wo-scr", {}, "method.loss=freematch compares"),
        (None, {"method": {"source": "meta-optimised", "loss": "vicreg"}}, "method.loss=vicreg compares"),
        (None, {"method": {"source": "meta-optimised", "loss": "infonce"}}, "method.loss=infonce compares"),
    ],
)
def test_slices_that_would_be_inexact_are_refused(name: str | None, more: dict[str, Any], words: str) -> None:
    more = more | {"method": {"micro_batch": 2, **more.get("method", {})}}
    with pytest.raises(UserError, match=f"method.micro_batch=2: {words} the images of a batch"):
        learner(config(name, **more))


def test_slices_that_are_exact_are_taken() -> None:
    learner(config("mp-ssl", method={"micro_batch": 2}))
    learner(config("mp-ssl-wo-scr", method={"micro_batch": 2, "freematch": {"fairness": 0}}))  # a mean over images
    learner(config(None, method={"source": "meta-optimised", "loss": "vicreg", "micro_batch": 64, "lmo_batch": 64}))
