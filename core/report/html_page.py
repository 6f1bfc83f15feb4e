"""Pages of one HTML file each, which load nothing from anywhere: templates in one common style.

A template extends ``base.html``, whose blocks are ``title``, ``style``, ``main`` and ``script``,
and may import ``table`` and ``chart`` from ``macros.html``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.extensions.optional import need
from wishbone.core.report.charts import data_url


def render(template: Path, context: Mapping[str, object]) -> str:
    """Fill a template; everything in ``context`` is escaped. Raises ``MissingExtra``."""
    jinja = need("jinja2", "jinja2", "write the report")
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja.StrictUndefined,
    )
    return environment.get_template(template.name).render(context)


def write_page(path: Path, template: Path, context: Mapping[str, object]) -> Path:
    """Write a page and return its path."""
    write_text(path, render(template, context))
    return path


def image(drawing: str) -> str:
    """Return an SVG file as the address of an image: its ids and style cannot reach the page."""
    return data_url("image/svg+xml", drawing.encode())
