"""The templates of this room, and what fills them."""

from __future__ import annotations

import importlib.resources
from typing import Any

from leanly.errors import MissingExtra


def environment() -> Any:
    """Return jinja2's environment over the templates of this room.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2 is not installed", where="report", remedy="pip install jinja2") from error
    files = importlib.resources.files("leanly.report") / "templates"
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["figure"] = figure
    return found


def figure(text: str) -> str:
    """Return a figure that is broken into lines only before its interval or before what it was seen on."""
    whole = text.replace(" ", "\N{NO-BREAK SPACE}")
    for word in ("(", "on\N{NO-BREAK SPACE}"):
        whole = whole.replace(f"\N{NO-BREAK SPACE}{word}", f" {word}")
    return whole
