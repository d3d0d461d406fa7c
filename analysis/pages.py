"""Pictures, tables and pages as files."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

DOTS_PER_INCH = 150
# A spreadsheet takes a cell that begins with one of these for a formula, and runs it.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PNG and PDF; return the PNG as a data URI for a page."""
    file = folder / f"{name}.png"
    figure.savefig(file, dpi=DOTS_PER_INCH)
    # Keep the layout that is computed now: computing it again takes as long as drawing.
    figure.set_layout_engine("none")
    figure.savefig(folder / f"{name}.pdf")
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def save_csv(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV; a text that a spreadsheet would run as a formula gets a ' before it."""
    safe = table.rename(columns=_harmless)
    for name in safe.select_dtypes(exclude=["number", "bool"]).columns:
        safe[name] = safe[name].map(_harmless)
    safe.to_csv(file, index=False)


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = f"'{cell}" if cell.startswith(FORMULA) and not _is_number(cell) else cell
    # Only \n is quoted in a cell: \r would begin a new row.
    return text.replace("\r", " ")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
