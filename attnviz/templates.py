"""The template environment of pages that open offline."""

from __future__ import annotations

import base64
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


def template(package: str | None, name: str, **filters: Callable[[Any], Any]) -> Template:
    """Return a page's template; all text put into it is escaped, and a missing name is an error.

    Args:
        package: dotted, whose folder holds the templates.
        name: of the file there; it may include others of that folder.
        **filters: further ones, by name; `base64` is there.
    """
    import jinja2

    folder = resources.files(package or "attnviz")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda part: folder.joinpath(part).read_text("utf-8")),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"base64": lambda data: base64.b64encode(data).decode("ascii")}
    environment.filters |= filters
    return environment.get_template(name)
