"""The signs of failure, read off the numbers of a diagnosis."""

from __future__ import annotations

from typing import Any

APART = 0.1  # of coverage between noise and real images, below which their order is left to chance
SAME, RANK, CHANGE = 0.99, 2.0, 0.1
"""Collapsed: images that differ have a cosine of ``SAME`` on average, or features fill fewer than ``RANK`` directions. Views vary
too little: they change the pixels by less than ``CHANGE`` of what tells two images apart."""


def reached(found: dict[str, Any]) -> float | None:
    """Return where the coverage of synthetic images lies between that of noise (0) and of other real images (1).

    Negative: farther from the data than noise. None where the model cannot tell noise from real images by ``APART``, and in
    diagnoses that measured no noise.
    """
    if "noise" not in found:
        return None
    low, high = found["noise"]["coverage"], found["real"]["coverage"]
    return float((found["synthetic"]["coverage"] - low) / (high - low)) if high - low >= APART else None


def collapsed(measured: dict[str, float]) -> bool:
    """Whether the features of different images have become one."""
    return measured["others"] >= SAME or measured["rank"] < RANK


def varies_little(measured: dict[str, float]) -> bool:
    """Whether weak and strong views are nearly the same picture."""
    return measured["change"] < CHANGE
