"""Frozen public image generators: the protocol, BigGAN from a folder or by name, and two small ones shipped with the package."""

from __future__ import annotations

from mpssl_fed.generators.base import GENERATORS, Generator, fit_images, load_generator
from mpssl_fed.generators.biggan import BigGANGenerator  # its import also registers our names
from mpssl_fed.generators.exported import export_generator
from mpssl_fed.generators.foundation import foundation_classifier

__all__ = [
    "GENERATORS",
    "BigGANGenerator",
    "Generator",
    "export_generator",
    "fit_images",
    "foundation_classifier",
    "load_generator",
]
