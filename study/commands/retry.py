"""`python -m study retry STUDY`: the failed trials of a study again, from the record's own spec."""

import argparse
import os
from pathlib import Path

from rich.console import Console

from study.commands.console import EXIT_BUDGET, EXIT_FAILED_TRIALS, EXIT_INTERRUPTED, EXIT_OK
from study.commands.elsewhere import make_parser, parse, print_json
from study.commands.options import (
    Options,
    add_places,
    add_resources,
    add_survival,
    data_of,
    resources_of_trials,
    stores_of,
)


def retry_failed(arguments: list[str], console: Console) -> int:
    """Run the failed trials of a study again; 1 if some fail again."""
    parser = make_parser(
        "retry",
        "Run the failed trials of a study again, and no others. The study is the one in the record: no study file is\n"
        "needed. (study/run.py tries failed trials again too, and then goes on with the rest.)",
        "the keys study, to_retry, finished, failed, interrupted.",
    )
    add_survival(add_resources(parser))
    options = parse(parser, arguments, add_places)
    if options.json:
        with Path(os.devnull).open("w") as nowhere:
            return _retry(options, Console(file=nowhere))
    return _retry(options, console)


def _retry(given: argparse.Namespace, console: Console) -> int:
    from study.commands.run import analyse, execute_plan, say_how_to_go_on
    from study.commands.views.standing import replicates_each
    from study.engine.plan import make_plan
    from study.record.writer import RecordWriter
    from trainables.tasks import load_task

    record = RecordWriter(stores_of(given), given.study)
    spec = record.spec()
    options = Options(
        spec=spec,
        stores=stores_of(given),
        resources=resources_of_trials(given),
        runner=given.runner,
        data=data_of(given),
        plan_only=False,
    )
    plan = make_plan(spec, [load_task(task, options.data) for task in spec.tasks], record)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with record.held(say):
        plan = plan.renewed(record)
        growing = {growth.key for growth in plan.growing}
        failed = {key for key in record.failed() if key not in plan.finished or key in growing}
        if not failed:
            say(f"No trial of {given.study!r} has failed: nothing to run again.")
        else:
            say(f"{len(failed)} failed trial(s) to run again, {replicates_each(spec.replicates)}.")
            execution = execute_plan(plan, record, options, console, only=failed)
    if given.json:
        ended = (execution.finished, execution.failed, execution.interrupted) if failed else (0, 0, False)
        names = ("study", "to_retry", "finished", "failed", "interrupted")
        print_json(dict(zip(names, (given.study, len(failed), *ended), strict=True)))
    if not failed:
        return EXIT_OK
    if execution.interrupted:
        return EXIT_INTERRUPTED
    analyse(options, record, record.finished(), console)
    if execution.reached is not None:
        say_how_to_go_on(spec.name, execution.reached, execution.ended > 0, console)
        return EXIT_BUDGET
    return EXIT_FAILED_TRIALS if execution.failed else EXIT_OK
