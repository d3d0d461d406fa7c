"""`python study/run.py`: parse the command line, plan, run the missing trials, analyse, print where results are."""

import contextlib
import sys
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from analysis.locations import sqlite_file
from study.commands.console import (
    EXIT_BUDGET,
    EXIT_FAILED_TRIALS,
    EXIT_INTERRUPTED,
    EXIT_OK,
    command_to_analyse,
    paused_garbage_collection,
    run_command,
    short_path,
    tell,
)
from study.commands.options import Options, parse_options
from study.shown import short_key

if TYPE_CHECKING:
    from study.engine.budget import Reached
    from study.engine.execute import Execution
    from study.engine.plan import Plan
    from study.record.reader import FinishedTrial
    from study.record.writer import RecordWriter

# Modules are imported where they are used: MLflow, torch, Optuna and Ray take a second or two each, and --help needs
# none of them.


def main(arguments: list[str] | None = None) -> int:
    """Run a study; 0 when all of it is done, 1 if trials failed, 2 for an error, 3 if its budget stopped it.

    128 + signal when ended by one.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(["python", "study/run.py"], arguments, lambda console: _run(arguments, console))


def _run(arguments: list[str], console: Console) -> int:
    options = parse_options(arguments)
    if options is None:
        from study.commands.views.catalogue import print_catalogue

        print_catalogue(console)
        return EXIT_OK
    spec = options.spec
    console.print(Text.assemble((spec.name, "bold"), f": {spec.question}" if spec.question else ""))
    with paused_garbage_collection():
        _check_stores(options, console)
    if options.auto_step_size:
        from study.commands.step_size import with_step_size

        options = with_step_size(options, console)
        spec = options.spec
    with paused_garbage_collection():
        from study.commands.views.standing import standing
        from study.engine.plan import make_plan
        from trainables.tasks import load_task

        record = _open_record(options) if options.stores.may_have(spec.name) else None
        plan = make_plan(spec, [load_task(task, options.data) for task in spec.tasks], record)
        if options.plan_only:
            from study.commands.views.plan import print_plan

            print_plan(plan, options, record.usage() if record else None, console)
            return EXIT_OK
        record = record or _open_record(options)
        if plan.to_do == 0:
            return _nothing_to_run(plan, record, options, console)
    with contextlib.ExitStack() as stack:
        if record.exists:
            # A new study is held as soon as it exists.
            stack.enter_context(record.held(partial(tell, console)))
            plan = plan.renewed(record)
            if plan.to_do == 0:
                return _nothing_to_run(plan, record, options, console)
        log = f" Log: {short_path(options.stores.log_file(spec.name))}" if options.runner == "ray" else ""
        console.print(f"{standing(plan)}.{log}")
        execution = execute_plan(plan, record, options, console)
    if execution.interrupted:
        return EXIT_INTERRUPTED
    if execution.ended < plan.to_do and execution.reached is None:
        found = execution.ended - len(plan.growing)
        console.print(f"The search found only {found} of {plan.remaining} new trials in the space.")
    if plan.finished or execution.finished:
        analyse(options, record, record.finished(), console)
    if execution.reached is not None:
        say_how_to_go_on(spec.name, execution.reached, execution.ended > 0, console)
        return EXIT_BUDGET
    return EXIT_FAILED_TRIALS if execution.failed else EXIT_OK


def _check_stores(options: Options, console: Console) -> None:
    """Find what is wrong with the stores before anything is created, and say which the environment has chosen."""
    stores = options.stores
    for name in sorted(stores.variables):
        console.print(f"{name} is set: {stores.described(name)}", highlight=False)
    stores.check_buckets()
    if sqlite_file(stores.optuna_url) is None:
        from study.search.store import check_storage

        check_storage(stores.optuna_url)


def _nothing_to_run(plan: "Plan", record: "RecordWriter", options: Options, console: Console) -> int:
    from study.engine.execute import forget_what_finished
    from study.record.lease import HeldError

    console.print(f"All {plan.trials} trials are finished already: nothing to run.")
    with contextlib.suppress(HeldError):
        forget_what_finished(plan, record)
    analyse(options, record, plan.finished, console)
    return EXIT_OK


def _open_record(options: Options) -> "RecordWriter":
    from study.record.writer import RecordWriter

    return RecordWriter(options.stores, options.spec.name)


def execute_plan(
    plan: "Plan", record: "RecordWriter", options: Options, console: Console, only: Collection[str] | None = None
) -> "Execution":
    """Run the missing trials and replicates with a display of progress; `only` the trials with these keys.

    Nothing runs if the budget is spent.

    Raises:
        StudyError: another driver holds the study, or a store or the runner cannot be used.
    """
    from study.commands.views.progress import StudyProgress
    from study.engine.budget import spent
    from study.engine.execute import Execution, execute
    from study.engine.runners import make_runner
    from study.record.usage import Usage

    # All trials are read for it, which takes long where they are many.
    used = record.usage() if plan.spec.budget.limits_life else Usage()
    if (reached := spent(plan.spec.budget, used)) is not None:
        return Execution(finished=0, failed=0, interrupted=False, reached=reached)

    name = plan.spec.name
    runner = make_runner(options.runner, options.resources, options.stores, name, tell=console.print)
    beginning = "starting Ray …" if options.runner == "ray" else "starting …"
    with StudyProgress(plan, console, beginning) as progress:
        execution = execute(plan, record, runner, progress, only, tell=console.print)
    if execution.failed:
        console.print(
            Text.assemble(
                (f"{execution.failed} trial(s) failed", "red"),
                f"; the same command tries them again. Which: python -m study status {name}. Why: python -m study why "
                f"{name} TRIAL",
            ),
            soft_wrap=True,
        )
    if progress.stopped_early:
        console.print(f"{progress.stopped_early} trial(s) were stopped early: they are on no front and in no curve.")
    if execution.stopped_by is not None:
        console.print(f"Stopped: {execution.stopped_by} asked for it.", markup=False, highlight=False)
    return execution


def say_how_to_go_on(study: str, reached: "Reached", ran: bool, console: Console) -> None:
    """Print which limit of the budget has stopped a study, or left nothing to run, and how the study goes on."""
    if reached.name == "max_failed_trials":
        key = short_key(reached.failed[0])
        how = f"Why: python -m study why {study} {key}. The same command goes on, and tries them again."
    elif reached.name == "hours":
        how = "The same command goes on."
    else:
        how = f"To go on, raise budget.{reached.name}, in the study file or with --budget.{reached.name}."
    beginning = "The budget has stopped the study: " if ran else "The budget is spent, nothing was run: "
    console.print(
        Text.assemble((beginning, "yellow"), f"{reached}. Everything finished is kept. {how}"),
        soft_wrap=True,
        highlight=False,
    )


def analyse(
    options: Options, record: "RecordWriter", finished: Mapping[str, "FinishedTrial"], console: Console
) -> None:
    """Make the report unless it is current, and print its summary.

    Raises:
        StudyError: the record cannot be read, or the report cannot be written.
    """
    from study.commands.views.summary import places, print_next_commands, summary_table
    from study.engine.report import current_report

    command = command_to_analyse(options.stores, options.spec.name)
    page, summary = current_report(record, finished, command)
    console.print()
    console.print(summary_table(summary))
    console.print(places(options, page))
    print_next_commands(options, command, console)
