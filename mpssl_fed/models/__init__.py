"""Classifiers f = h . g: a feature extractor (body) and a linear head."""

from __future__ import annotations

from mpssl_fed.models.block import Block, Layout
from mpssl_fed.models.classifier import Architecture, Classifier, Params, Weights, build_classifier, widened

__all__ = ["Architecture", "Block", "Classifier", "Layout", "Params", "Weights", "build_classifier", "widened"]
