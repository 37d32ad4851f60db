"""Frozen public image generators: the protocol, BigGAN from a folder or by name, and two small ones shipped with the package."""

from __future__ import annotations

from mpssl_fed.generators.base import GENERATORS, Generator, fit_images, load_generator

__all__ = ["GENERATORS", "Generator", "fit_images", "load_generator"]
