"""Filling a template into one self-contained HTML file."""

from __future__ import annotations

import base64
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mpssl_fed.files import write_atomic

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write ``template`` filled with ``values`` (text is escaped) and return ``path``."""
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    page = _environment().get_template(template).render(css=css, version=_version(), **values)
    return write_atomic(path, page)


def picture(path: Path, words: str) -> dict[str, Any]:
    """Return a PNG file as an image of a page: a data address, its size in pixels and its text alternative."""
    content = path.read_bytes()
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")  # the IHDR chunk comes first
    return {
        "data": "data:image/png;base64," + base64.b64encode(content).decode(),
        "width": width,
        "height": height,
        "words": words,
    }


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _version() -> str:
    try:
        return version("mpssl-fed")
    except PackageNotFoundError:  # run from a tree that is not installed
        return ""
