"""Pictures and pages as files."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

DOTS_PER_INCH = 150


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PNG and PDF; return the PNG as a data URI for a page."""
    file = folder / f"{name}.png"
    figure.savefig(file, dpi=DOTS_PER_INCH)
    # Keep the layout that is computed now: computing it again takes as long as drawing.
    figure.set_layout_engine("none")
    figure.savefig(folder / f"{name}.pdf")
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def render(template: str, context: Mapping[str, Any], **filters: Callable[..., str]) -> str:
    """Fill in a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**context)
