"""Filling a template into HTML, as one self-contained file or as a piece of a page."""

from __future__ import annotations

import base64
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mpssl_fed.files import write_atomic
from mpssl_fed.names import printable

TEMPLATES = Path(__file__).parent / "report" / "templates"


def render(template: str, **values: Any) -> str:
    """Return ``template`` filled with ``values``; text is escaped."""
    return _environment().get_template(template).render(**values)


def style_sheet() -> str:
    """Return the style of every page, and what the live page adds."""
    return "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "live.css"))


def write_page(path: Path, template: str, mode: int = 0o644, **values: Any) -> Path:
    """Write ``template`` filled with ``values`` (text is escaped) with these permissions and return ``path``."""
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return write_atomic(path, render(template, css=css, version=_version(), **values), mode)


def picture(content: bytes, words: str) -> dict[str, Any]:
    """Return a PNG file's content as an image of a page: a data address, its size in pixels and its text alternative."""
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")  # the IHDR chunk comes first
    return {
        "data": "data:image/png;base64," + base64.b64encode(content).decode(),
        "width": width,
        "height": height,
        "words": words,
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # what is marked safe passes as it is
    )
    environment.filters["prose"] = _prose
    return environment


def _prose(text: str) -> Markup:
    """Return escaped text in which what stands between backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _version() -> str:
    try:
        return version("mpssl-fed")
    except PackageNotFoundError:  # run from a tree that is not installed
        return ""
