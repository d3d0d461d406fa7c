"""Pictures, tables and pages as files."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

DOTS_PER_INCH = 150
# A spreadsheet takes a cell that begins with one of these for a formula, and runs it.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
# Bytes of the name of a file or folder that is made from other names, far below what file systems take.
LONGEST_NAME = 100


def file_name(names: Sequence[str]) -> str:
    """'a+b': a name for a file or folder, of at most LONGEST_NAME bytes; a cut one ends with a digest of the names."""
    name = re.sub(r"[/\\\x00]", "_", "+".join(names))
    if name == "+".join(names) and len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


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
