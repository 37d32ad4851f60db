"""Frozen public image generators: the protocol, from a folder, a file or by name, and five shipped small ones."""

from __future__ import annotations

from mpssl_fed.generators.base import GENERATORS, Generator, fit_images, load_generator
from mpssl_fed.generators.biggan import BigGANGenerator  # its import also registers our names
from mpssl_fed.generators.exported import export_generator
from mpssl_fed.generators.foundation import foundation_classifier
from mpssl_fed.generators.pipelines.folder import load_pipeline
from mpssl_fed.generators.small import SmallGenerator, load_any_folder

__all__ = [
    "GENERATORS",
    "BigGANGenerator",
    "Generator",
    "SmallGenerator",
    "export_generator",
    "fit_images",
    "foundation_classifier",
    "load_any_folder",
    "load_generator",
    "load_pipeline",
]
