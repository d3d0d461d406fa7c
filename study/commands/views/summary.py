"""The output after a study: its Pareto front, the locations of its results, the next commands."""

from pathlib import Path

import rich.box
from rich.console import Console
from rich.table import Table

from analysis.freshness import Summary
from analysis.locations import OPTUNA_VARIABLE, TRACKING_VARIABLE
from analysis.secrets import without_user
from analysis.servers import is_server
from study.commands.console import program, short_path, short_url, url_for_command
from study.commands.options import DEFAULT_STUDY, Options
from study.record.stores import Stores

MOST_ROWS = 12


def summary_table(summary: Summary) -> Table:
    """The Pareto-optimal trials; as many as fit a screen."""
    rows = summary.front
    title = f"{summary.trials} trials; on the Pareto front (mean ± 95 % interval over replicates)"
    table = Table(
        title=title,
        min_width=len(title),
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for number, name in enumerate(rows[0] if rows else ["no trial is usable"]):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows[:MOST_ROWS]:
        table.add_row(*row.values())
    if len(rows) > MOST_ROWS:
        table.caption = f"and {len(rows) - MOST_ROWS} more in the report"
    return table


def places(options: Options, page: Path) -> Table:
    """Where the study's results are."""
    stores = options.stores
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = "\nWhere everything is", "left"
    table.add_row("report", short_path(page))
    table.add_row("tables and figures", short_path(page.parent))
    table.add_row("MLflow record", short_url(stores.tracking_uri))
    table.add_row("Optuna study", short_url(stores.optuna_url))
    if options.runner == "ray":
        table.add_row("Ray's files and log", short_path(stores.log_file(options.spec.name).parent))
    return table


def print_next_commands(options: Options, analysis_command: str, console: Console) -> None:
    """The next commands, each on one line however long, to be copied."""
    stores = options.stores
    optuna_url = url_for_command(stores.optuna_url, OPTUNA_VARIABLE)
    commands = {
        "compare trials": _to_compare(stores),
        "explore the Pareto front": f"{program('optuna-dashboard')} {optuna_url}",
        "make the report again": analysis_command,
    }
    if options.spec.name == DEFAULT_STUDY:
        commands["the published experiment"] = f"{program('python')} study/run.py mnist --data DIR --plan"
    console.print("\nWhat to do next", style="italic", highlight=False)
    width = max(map(len, commands)) + 2
    for purpose, command in commands.items():
        console.print(f"{purpose:<{width}}{command}", soft_wrap=True, markup=False, highlight=False)


def _to_compare(stores: Stores) -> str:
    """How to see the record in MLflow: its server's page, or a server for a database."""
    if is_server(stores.tracking_uri):
        return f"open {without_user(stores.tracking_uri)} in a browser"
    command = f"{program('mlflow')} ui"
    url = url_for_command(stores.tracking_uri, TRACKING_VARIABLE)
    # MLflow reads the URL from a variable, so that its password is in no command line.
    return (
        f"MLFLOW_BACKEND_STORE_URI={url} {command}" if url.startswith('"') else f"{command} --backend-store-uri {url}"
    )
