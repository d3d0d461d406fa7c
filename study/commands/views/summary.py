"""The output after a study: its Pareto front, the locations of its results, the next commands."""

from pathlib import Path

import rich.box
from rich.table import Table

from analysis.freshness import Summary
from study.commands.console import program, short_path, short_url
from study.commands.options import DEFAULT_STUDY, Options

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
    table.add_row("MLflow record", short_url(stores.tracking_uri, stores.root / "mlflow.db"))
    table.add_row("Optuna study", short_url(stores.optuna_url, stores.root / "optuna.db"))
    if options.runner == "ray":
        table.add_row("Ray's files and log", short_path(stores.log_file(options.spec.name).parent))
    return table


def next_commands(options: Options, analysis_command: str) -> Table:
    """The next commands."""
    stores = options.stores
    tracking = short_url(stores.tracking_uri, stores.root / "mlflow.db")
    optuna_url = short_url(stores.optuna_url, stores.root / "optuna.db")
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = "\nWhat to do next", "left"
    table.add_row("compare trials", f"{program('mlflow')} ui --backend-store-uri {tracking}")
    table.add_row("explore the Pareto front", f"{program('optuna-dashboard')} {optuna_url}")
    table.add_row("make the report again", analysis_command)
    if options.spec.name == DEFAULT_STUDY:
        table.add_row("the published experiment", f"{program('python')} study/run.py mnist --data DIR --plan")
    return table
