"""`rlct.step_size: auto`: find the step size of a study before its first trial."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from study.commands.options import Options
from study.errors import StudyError
from study.spec import build_spec
from trainables.config import RlctConfig

if TYPE_CHECKING:
    from study.engine.plan import Plan
    from study.record.outcome import RlctOutcome
    from study.record.reader import FinishedTrial
    from study.record.writer import RecordWriter


def with_step_size(options: Options, console: Console) -> Options:
    """The options with the step size that the study's record has, or with one that is found now.

    Raises:
        StudyError: no step size suits all networks, or the networks cannot be trained.
        KeyboardInterrupt: the user ended it. What is finished is kept, and the same command goes on.
    """
    from study.engine.step_size import check_auto, extremes, study_of_extremes
    from study.record.writer import RecordWriter

    spec, stores = options.spec, options.stores
    check_auto(spec)
    if stores.may_have(spec.name) and (record := RecordWriter(stores, spec.name)).exists:
        step = record.spec().rlct.step_size
        console.print(f"rlct.step_size auto: {step:g}, as in the record of the study", highlight=False)
        return _with(options, step)
    if options.plan_only:
        console.print(
            f"rlct.step_size auto: found before the first trial, on {len(extremes(spec))} trials at the ends of the "
            f"study; planned with {spec.rlct.step_size:g}",
            highlight=False,
            soft_wrap=True,
        )
        return options
    step = _calibrated(replace(options, spec=study_of_extremes(spec)), console)
    return _with(options, step)


def _with(options: Options, step: float) -> Options:
    # Made anew, not copied: a copy would keep the trials that the spec has listed.
    raw = options.spec.model_dump(mode="json")
    raw["rlct"]["step_size"] = step
    return replace(options, spec=build_spec(raw, options.spec.name))


def _calibrated(options: Options, console: Console) -> float:
    """Train the networks of the ends and sample them with every step; the largest step that suits all of them."""
    from study.engine.step_size import ladder, largest_that_suits

    spec = options.spec
    console.print(f"rlct.step_size auto: {spec.question}", highlight=False, soft_wrap=True)
    record, plan = _trained(options, console)
    finished = record.finished()
    trials = {trial.key: finished[trial.key] for trial in plan.listed}
    settings = ladder(spec.rlct)
    _estimate(record, plan, dict.fromkeys(trials, settings), options, console)
    outcomes = {
        each.step_size: [(trial.status, record.estimate(key, each.key()).rlct) for key, trial in trials.items()]
        for each in settings
    }
    console.print(_table(list(trials.values()), outcomes))
    step = largest_that_suits(outcomes)
    if step is None:
        tried = ", ".join(f"{each.step_size:g}" for each in settings)
        raise StudyError(
            f"rlct.step_size: auto: none of {tried} is sound, with a bias below 2 %, for all networks at the ends of "
            "the study. Take more rlct.draws, or another localization or nbeta, or give a number."
        )
    console.print(f"rlct.step_size auto: {step:g}, for all trials of the study", highlight=False)
    return step


def _trained(options: Options, console: Console) -> tuple["RecordWriter", "Plan"]:
    """The record and the plan of the study of the ends, all of whose trials are finished."""
    from study.commands.run import execute_plan
    from study.engine.plan import make_plan
    from study.record.writer import RecordWriter
    from trainables.tasks import load_task

    spec = options.spec
    record = RecordWriter(options.stores, spec.name)
    plan = make_plan(spec, [load_task(task, options.data) for task in spec.tasks], record if record.exists else None)
    if plan.to_do:
        with contextlib.ExitStack() as stack:
            if record.exists:
                stack.enter_context(record.held(partial(_tell, console)))
                plan = plan.renewed(record)
            execution = execute_plan(plan, record, options, console)
        if execution.interrupted:
            raise KeyboardInterrupt
        if execution.failed:
            raise StudyError(
                f"rlct.step_size: auto: {execution.failed} of the trials that it needs failed (python -m study status "
                f"{spec.name}). Run the same command again, or give a number."
            )
        record.refresh()
    return record, plan


def _estimate(
    record: "RecordWriter",
    plan: "Plan",
    settings: Mapping[str, Sequence[RlctConfig]],
    options: Options,
    console: Console,
) -> None:
    """Make the estimates that are missing; settings are by trial key."""
    from study.commands.views.rlct import EstimateProgress
    from study.engine.estimation import jobs_to_do, run_jobs
    from study.engine.runners import make_runner

    finished = record.finished()
    trials = {key: finished[key] for key in settings}
    with record.held(partial(_tell, console)):
        jobs = jobs_to_do(record, trials, settings)
        if not jobs:
            return
        runner = make_runner(options.runner, options.resources, options.stores, plan.spec.name, tell=console.print)
        with EstimateProgress(len(jobs), console) as watch:
            failed = run_jobs(jobs, record, plan.data, runner, watch, partial(_tell, console))
    if failed:
        raise StudyError(f"rlct.step_size: auto: {failed} estimates failed. Run the same command again.")


def _table(trials: Sequence["FinishedTrial"], outcomes: Mapping[float, Sequence[tuple[str, "RlctOutcome"]]]) -> Table:
    """Verdict and bias of every trial at every step size."""
    from study.engine.step_size import bias

    table = Table(title="rlct: verdict and bias", title_justify="left")
    table.add_column("step size", justify="right")
    for trial in trials:
        table.add_column(trial.name if trial.status == "ok" else f"{trial.name} ({trial.status})")
    for step, of_step in outcomes.items():
        cells = [f"{outcome.verdict}, {bias(outcome):.1%}" for _, outcome in of_step]
        table.add_row(f"{step:g}", *cells)
    return table


def _tell(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
