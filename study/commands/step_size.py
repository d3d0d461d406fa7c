"""`rlct.step_size: auto`: find the step size of a study before its first trial."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from study.commands.console import tell
from study.commands.options import Options
from study.engine.step_size import MOST_BIAS
from study.errors import StudyError
from study.spec import StudySpec, build_spec
from trainables.outcomes import worst_verdict
from trainables.tasks import TaskData, load_task

if TYPE_CHECKING:
    from study.engine.plan import Plan
    from study.engine.step_size import Sampled
    from study.record.reader import FinishedTrial
    from study.record.writer import RecordWriter


def with_step_size(options: Options, console: Console) -> Options:
    """The options with the step size that the study's record has, or with one that is found now.

    Raises:
        StudyError: the study cannot have one, no step size suits all networks, or the networks cannot be trained.
        KeyboardInterrupt: the user ended it. What is finished is kept, and the same command goes on.
    """
    from study.engine.plan import make_plan
    from study.engine.step_size import check_auto, study_of_extremes
    from study.record.writer import RecordWriter

    spec, stores = options.spec, options.stores
    check_auto(spec)
    if stores.may_have(spec.name) and (record := RecordWriter(stores, spec.name)).run_id is not None:
        return _as_recorded(options, record.spec(), console)
    data = [load_task(task, options.data) for task in spec.tasks]
    # Whatever is wrong with the study itself is said before its ends are trained.
    make_plan(spec, data, None)
    ends = study_of_extremes(spec)
    if options.plan_only:
        console.print(
            f"rlct.step_size auto: found before the first trial, on {len(ends.design)} trials at the ends of the study "
            f"({ends.name}), which are not in this plan; planned with {spec.rlct.step_size:g}",
            highlight=False,
            soft_wrap=True,
        )
        return options
    return _with(options, _calibrated(replace(options, spec=ends), data, console))


def _as_recorded(options: Options, recorded: StudySpec, console: Console) -> Options:
    """The options with the step size of all trials in the record."""
    if "rlct_step_size" in recorded.names:
        raise StudyError(
            f"rlct.step_size: auto is one step for all trials, and those of the study {recorded.name!r} in the record "
            "differ in it. Give the numbers, or give this study another name."
        )
    step = recorded.rlct.step_size
    console.print(f"rlct.step_size auto: {step:g}, as in the record of the study", highlight=False)
    return _with(options, step)


def _with(options: Options, step: float) -> Options:
    # Made anew, not copied: a copy would keep the trials that the spec has listed.
    raw = options.spec.model_dump(mode="json")
    raw["rlct"]["step_size"] = step
    return replace(options, spec=build_spec(raw, options.spec.name))


def _calibrated(options: Options, data: Sequence[TaskData], console: Console) -> float:
    """Train the networks of the ends and sample them with every step; the largest step that suits all of them."""
    from study.commands.rlct import OpenStudy, run_estimates
    from study.engine.runners import make_runner
    from study.engine.step_size import ladder, largest_that_suits, sampled

    spec = options.spec
    console.print(f"rlct.step_size auto, study {spec.name}: {spec.question}", highlight=False, soft_wrap=True)
    record, plan = _trained(options, data, console)
    finished = record.finished()
    trials = {trial.key: finished[trial.key] for trial in plan.listed}
    settings = {trial.key: ladder(trial.config.rlct) for trial in plan.listed}
    runner = make_runner(options.runner, options.resources, options.stores, spec.name, tell=console.print)
    study = OpenStudy(record, plan.data, options.stores, runner)
    if failed := run_estimates(study, trials, settings, plan_only=False, console=console):
        raise StudyError(f"rlct.step_size: auto: {failed} estimates failed. Run the same command again.")
    statuses, estimates = {key: _statuses(record, trial) for key, trial in trials.items()}, record.estimates()
    networks = {
        key: {each.step_size: sampled(statuses[key], estimates[key, each.key()].rlct) for each in settings[key]}
        for key in trials
    }
    console.print(_table(list(trials.values()), list(networks.values())))
    by_step: dict[float, list[Sampled]] = {}
    for of_trial in networks.values():
        for step, each in of_trial.items():
            by_step.setdefault(step, []).extend(each)
    if not any(network.learned for of_step in by_step.values() for network in of_step):
        raise StudyError(
            "rlct.step_size: auto: no network at the ends of the study has learned its task, so none has an rlct. "
            "Train longer, or with smaller weights, or give a number."
        )
    found = largest_that_suits(by_step)
    if found is None:
        raise StudyError(
            f"rlct.step_size: auto: none of {', '.join(f'{step:g}' for step in by_step)} is sound, with a bias below "
            f"{MOST_BIAS:.0%}, for all networks at the ends of the study that have learned. Take more rlct.draws, or "
            "another localization or nbeta, or give a number."
        )
    console.print(f"rlct.step_size auto: {found:g}, for all trials of the study", highlight=False)
    return found


def _statuses(record: "RecordWriter", trial: "FinishedTrial") -> list[str]:
    """The status of each replicate."""
    outcome = record.outcome(trial)
    return [trial.status] * len(trial.seeds) if outcome is None else list(outcome.replicate_statuses)


def _trained(options: Options, data: Sequence[TaskData], console: Console) -> tuple["RecordWriter", "Plan"]:
    """The record and the plan of the study of the ends, all of whose trials are finished."""
    from study.commands.run import execute_plan
    from study.engine.plan import make_plan
    from study.record.writer import RecordWriter

    spec = options.spec
    record = RecordWriter(options.stores, spec.name)
    plan = make_plan(spec, data, record if record.exists else None)
    if plan.to_do:
        with contextlib.ExitStack() as stack:
            if record.exists:
                stack.enter_context(record.held(partial(tell, console)))
                plan = plan.renewed(record)
            execution = execute_plan(plan, record, options, console)
        if execution.interrupted:
            raise KeyboardInterrupt
        if execution.failed or execution.reached is not None:
            why = f"{execution.failed} of the trials that it needs failed" if execution.failed else execution.reached
            raise StudyError(
                f"rlct.step_size: auto: {why} (python -m study status {spec.name}). Run the same command again, with a "
                "larger budget if that is the reason, or give a number."
            )
        record.refresh()
    return record, plan


def _table(trials: Sequence["FinishedTrial"], networks: Sequence[Mapping[float, Sequence["Sampled"]]]) -> Table:
    """The worst verdict and the largest bias of every trial's networks at every step size."""
    table = Table(title="rlct: verdict and bias", title_justify="left")
    table.add_column("step size", justify="right")
    for trial in trials:
        table.add_column(trial.name if trial.status == "ok" else f"{trial.name} ({trial.status})")
    for step in networks[0]:
        cells = []
        for of_trial in networks:
            verdict = worst_verdict(network.verdict for network in of_trial[step])
            cells.append(f"{verdict}, {max(network.bias for network in of_trial[step]):.1%}")
        table.add_row(f"{step:g}", *cells)
    return table
