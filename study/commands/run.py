"""`python study/run.py`: parse the command line, plan, run the missing trials, analyse, print where results are."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from study.commands.console import (
    EXIT_FAILED_TRIALS,
    EXIT_INTERRUPTED,
    EXIT_OK,
    command_to_analyse,
    paused_garbage_collection,
    run_command,
    short_path,
)
from study.commands.options import Options, parse_options

if TYPE_CHECKING:
    from study.engine.execute import Execution
    from study.engine.plan import Plan
    from study.record.reader import FinishedTrial
    from study.record.writer import RecordWriter

# Modules are imported where they are used: MLflow, torch, Optuna and Ray take a second or two each, and --help needs
# none of them.


def main(arguments: list[str] | None = None) -> int:
    """Run a study; 0 when all of it is done, 1 if trials failed, 2 for an error, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(["python", "study/run.py"], arguments, lambda console: _run(arguments, console))


def _run(arguments: list[str], console: Console) -> int:
    options = parse_options(arguments)
    if options is None:
        from study.commands.views.catalogue import print_catalogue

        print_catalogue(console)
        return EXIT_OK
    spec = options.spec
    console.print(f"[bold]{spec.name}[/bold]: {spec.question}" if spec.question else f"[bold]{spec.name}[/bold]")
    with paused_garbage_collection():
        from study.engine.plan import make_plan
        from trainables.tasks import load_task

        record = _open_record(options) if options.stores.may_have(spec.name) else None
        plan = make_plan(spec, load_task(spec.task, options.data), record)
        if options.plan_only:
            from study.commands.views.plan import print_plan

            print_plan(plan, options, console)
            return EXIT_OK
        record = record or _open_record(options)
        if plan.remaining == 0:
            console.print(f"All {plan.trials} trials are finished already: nothing to run.")
            _analyse(options, record, plan.finished, console)
            return EXIT_OK
    execution = _execute(plan, record, options, console)
    if execution.interrupted:
        return EXIT_INTERRUPTED
    if plan.finished or execution.finished:
        _analyse(options, record, record.finished(), console)
    return EXIT_FAILED_TRIALS if execution.failed else EXIT_OK


def _open_record(options: Options) -> "RecordWriter":
    from study.record.writer import RecordWriter

    return RecordWriter(options.stores, options.spec.name)


def _execute(plan: "Plan", record: "RecordWriter", options: Options, console: Console) -> "Execution":
    from study.commands.views.progress import StudyProgress
    from study.engine.execute import execute
    from study.engine.runners import make_runner

    spec = plan.spec
    done = f"{plan.done} of {plan.trials} trials are finished, " if plan.done else ""
    log = f" Log: {short_path(options.stores.log_file(spec.name))}" if options.runner == "ray" else ""
    console.print(f"{done}{plan.remaining} to run, {spec.replicates} replicates each.{log}")
    runner = make_runner(options.runner, options.resources, options.stores, spec.name)
    beginning = "starting Ray …" if options.runner == "ray" else "starting …"
    with StudyProgress(plan, console, beginning) as progress:
        execution = execute(plan, record, runner, progress)
    if execution.failed:
        console.print(
            f"[red]{execution.failed} trial(s) failed[/red]; the same command tries them again. Why: the artifact "
            "error.txt of each failed run in MLflow."
        )
    if execution.ended < plan.remaining and not execution.interrupted:
        console.print(f"The search found only {execution.ended} of {plan.remaining} new trials in the space.")
    return execution


def _analyse(
    options: Options, record: "RecordWriter", finished: Mapping[str, "FinishedTrial"], console: Console
) -> None:
    """Make the report unless it is current, and print its summary."""
    from study.commands.views.summary import next_commands, places, summary_table
    from study.engine.report import current_report

    command = command_to_analyse(options.stores, options.spec.name)
    page, summary = current_report(record, finished, command)
    console.print()
    console.print(summary_table(summary))
    console.print(places(options, page))
    console.print(next_commands(options, command))
