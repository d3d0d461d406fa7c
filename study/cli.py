"""`python study/run.py`: understand the command line, plan, run what is missing, analyse, say where things are."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich.box
from rich.console import Console
from rich.table import Table

from study.errors import StudyError, without_password
from study.options import Options, parse_options
from study.stores import Stores
from trainables.errors import ConfigError, DataError
from trainables.tasks import load_task

if TYPE_CHECKING:
    from analysis import Report, StudyRecord
    from study.record import Record

SUMMARY_ROWS = 12
# Where output goes to a file, nothing tells how wide a line may be.
LINE_WIDTH = 120
EXIT_OK, EXIT_FAILED_TRIALS, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run a study; 0 when all of it is done, 1 if trials failed, 2 for an error, 130 when interrupted."""
    console = own_console()
    try:
        options = parse_options(arguments)
        if options is None:
            from study.catalogue import print_catalogue

            print_catalogue(console)
            return EXIT_OK
        return _run(options, console)
    except (StudyError, ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        command = shlex.join(["python", "study/run.py", *(sys.argv[1:] if arguments is None else arguments)])
        console.print(
            f"\nInterrupted. Finished trials are kept; the same command runs the rest: {command}", markup=False
        )
        return EXIT_INTERRUPTED


def own_console() -> Console:
    """A terminal of our own: the driver sends everything that libraries print into a log."""
    console = Console(file=os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    if not console.is_terminal:
        console.width = LINE_WIDTH
    return console


def _run(options: Options, console: Console) -> int:
    # Heavy imports only once the command line is known to be right.
    import optuna

    from study.plan import make_plan
    from study.plan_view import print_plan
    from study.record import Record

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = options.spec
    console.print(f"[bold]{spec.name}[/bold]: {spec.question}" if spec.question else f"[bold]{spec.name}[/bold]")
    record = Record(options.stores, spec.name)
    plan = make_plan(spec, load_task(spec.task, options.data), record)
    if options.plan_only:
        print_plan(plan, options, console)
        return EXIT_OK
    failures, something_finished = 0, bool(plan.finished)
    if plan.remaining == 0:
        console.print(f"All {plan.trials} trials are finished already: nothing to run.")
    else:
        from study.execute import execute
        from study.progress import StudyProgress

        done = f"{plan.done} of {plan.trials} trials are finished, " if plan.done else ""
        console.print(
            f"{done}{plan.remaining} to run, {spec.replicates} replicates each. Log: "
            f"{shown(options.stores.log_file(spec.name))}"
        )
        with StudyProgress(plan, console) as progress:
            execute(plan, record, options.stores, options.resources, progress)
        failures = progress.failures
        something_finished |= progress.ended > failures
        if failures:
            console.print(
                f"[red]{failures} trial(s) failed[/red]; the same command tries them again. Why: the artifact "
                "error.txt of each failed run in MLflow."
            )
        if progress.ended < plan.remaining:
            console.print(f"The search found only {progress.ended} of {plan.remaining} new trials in the space.")
    if something_finished:
        _analyse(options, record, console)
    return EXIT_FAILED_TRIALS if failures else EXIT_OK


def _analyse(options: Options, record: "Record", console: Console) -> None:
    from analysis import AnalysisError, read_record, write_report

    stores, name = options.stores, options.spec.name
    analysis_command = command_to_analyse(stores, name)
    try:
        study_record = read_record(stores.tracking_uri, name)
        report = write_report(study_record, stores.report_folder(name), analysis_command)
    except AnalysisError as error:
        raise StudyError(
            f"{error} The trials are safe in the record; analyse them again with: {analysis_command}"
        ) from error
    record.attach(report.folder, "report")
    console.print()
    console.print(_summary(study_record, report))
    console.print(_where(options, report.page))
    console.print(_next_commands(options, analysis_command))


def command_to_analyse(stores: Stores, study: str, *options: str) -> str:
    """What to type here for the analysis of a study in these stores."""
    command = [program("python"), "-m", "analysis", study]
    if stores.root != Path("runs").resolve():
        command += ["--store", shown(stores.root)]
    if not stores.tracking_is_local:
        command += ["--tracking-uri", without_password(stores.tracking_uri)]
    return shlex.join([*command, *options])


def _summary(study_record: "StudyRecord", report: "Report") -> Table:
    """The Pareto-optimal trials, as many as fit a screen."""
    from analysis.report import trial_cells

    rows = trial_cells(study_record, report.front)
    table = Table(
        title=f"{len(study_record.trials)} trials; on the Pareto front (mean ± 95 % interval over replicates)",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("network" if rows else "no trial is usable", no_wrap=True)
    for name in list(rows[0])[2:] if rows else []:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:SUMMARY_ROWS]:
        layers, width, *others = row.values()
        table.add_row(f"{layers}×{width}", *others)
    if len(rows) > SUMMARY_ROWS:
        table.caption = f"and {len(rows) - SUMMARY_ROWS} more in the report"
    return table


def _where(options: Options, page: Path) -> Table:
    stores, name = options.stores, options.spec.name
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = "\nWhere everything is", "left"
    table.add_row("report", shown(page))
    table.add_row("tables and figures", shown(page.parent))
    table.add_row("MLflow record", _database(stores.tracking_uri, stores.root / "mlflow.db"))
    table.add_row("Optuna study", _database(stores.optuna_url, stores.root / "optuna.db"))
    table.add_row("Ray's files and log", shown(stores.log_file(name).parent))
    return table


def _next_commands(options: Options, analysis_command: str) -> Table:
    stores = options.stores
    tracking = _database(stores.tracking_uri, stores.root / "mlflow.db")
    optuna_url = _database(stores.optuna_url, stores.root / "optuna.db")
    python = program("python")
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = "\nWhat to do next", "left"
    table.add_row("compare trials", f"{program('mlflow')} ui --backend-store-uri {tracking}")
    table.add_row("explore the Pareto front", f"{program('optuna-dashboard')} {optuna_url}")
    table.add_row("make the report again", analysis_command)
    if options.spec.name == "quickstart":
        table.add_row("the published experiment", f"{python} study/run.py mnist --data DIR --plan")
    return table


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _database(url: str, local: Path) -> str:
    """A store's URL as a person would type it here, and may see it."""
    return f"sqlite:///{shown(local)}" if url == f"sqlite:///{local}" else without_password(url)


def program(name: str) -> str:
    """How to call a program of this environment from here: by name if that finds it, else by path."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(beside) else shown(beside)
