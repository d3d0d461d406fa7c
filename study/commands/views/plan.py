"""The plan, for a person to read."""

import os
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from study.commands.options import Options
from study.commands.views.durations import format_seconds
from study.commands.views.space import add_space
from study.commands.views.standing import growing
from study.engine.plan import Plan
from study.record.usage import SECONDS_PER_HOUR, Allotment, Machine, Usage, amount, shares
from study.spec import StudySpec
from study.spec.stopping import compared_objectives


def print_plan(plan: Plan, options: Options, used: Usage | None, console: Console) -> None:
    """Print trials, replicates, epochs, finished trials, the estimated time and what is left of the budget.

    `used` is what the study has used; None before it has begun.
    """
    spec = plan.spec
    fitting = max(1, (os.cpu_count() or 1) // options.resources.cpus_per_trial)
    side_by_side = 1 if options.runner == "local" else min(fitting, options.resources.concurrent or fitting)
    seconds, timed = plan.estimate_seconds(side_by_side)
    basis = (
        "by timing a piece of one on this machine"
        if timed
        else "a rough estimate for CPU cores, as timing would take long"
    )
    table = Table.grid(padding=(0, 2))
    for task, of_task in plan.data.items():
        data = of_task.data
        training = spec.training_of(task)
        samples = data.shape.training_size(training.validation_fraction, training.train_samples)
        held_out = data.shape.validation_size(training.validation_fraction)
        table.add_row(
            "task", f"{task}: {samples:,} training, {held_out:,} validation, {len(data.test_labels):,} test samples"
        )
        if held_out == 0:
            table.add_row("", "published recipe: no validation split, the test split is reported")
    if spec.sampler.name == "grid":
        table.add_row("trials", f"{plan.trials}, every point of the grid")
    elif spec.sampler.name == "design":
        table.add_row("trials", f"{plan.trials}, the design points")
    else:
        table.add_row("trials", f"{plan.trials}: {len(plan.listed)} design points, then sampler {spec.sampler}")
    table.add_row("replicates", f"{spec.replicates} per trial, {plan.trials * spec.replicates:,} networks")
    if len(spec.tasks) == 1:
        epochs = spec.training.epochs
        table.add_row("epochs", f"{epochs} per network, {plan.trials * spec.replicates * epochs:,} in all")
    for task in spec.tasks:
        rlct = spec.rlct_of(task)
        if len(spec.tasks) > 1:
            table.add_row(f"epochs, {task}", f"{spec.training_of(task).epochs} per network")
        name = "rlct" if len(spec.tasks) == 1 else f"rlct, {task}"
        table.add_row(name, f"{rlct.chains} chains × {rlct.draws} draws per network")
    if len(spec.tasks) > 1 and plan.to_do:
        work = plan.remaining_work_of_tasks
        shares = (f"{task} {of_task / sum(work.values()):.0%}" for task, of_task in work.items())
        table.add_row("work to do", ", ".join(shares))
    add_space(table, spec)
    table.add_row("objectives", ", ".join(f"{direction} {name}" for name, direction in spec.objectives.items()))
    for number, line in enumerate(_stopping(spec)):
        table.add_row("" if number else "stopped early", line)
    table.add_row("store", str(options.stores.root))
    table.add_row("done already", f"{plan.done} trials")
    if plan.growing:
        table.add_row("to grow", growing(plan))
    table.add_row("to run", f"{plan.remaining} trials")
    table.add_row(
        "estimated time",
        f"{format_seconds(seconds)} with {side_by_side} trial(s) side by side, {basis}"
        if plan.to_do
        else "none: everything is finished",
    )
    for number, line in enumerate(_budget(plan, options, used or Usage(), side_by_side, seconds)):
        table.add_row("" if number else "budget", line)
    console.print(table)
    console.print("Nothing was run. Leave out --plan to run it.")


def _stopping(spec: StudySpec) -> Iterator[str]:
    """The rule of early stopping, and the objectives that it leaves out."""
    if (rule := spec.stopping) is None:
        return
    compared = compared_objectives(spec)
    what = {
        "dominated": f"another trial is better in {', '.join(compared)} by more than {rule.z:g} standard errors",
        "wilcoxon": f"the best trial is better in {', '.join(compared)} by Wilcoxon's test (p < {rule.p_threshold:g})",
    }[rule.rule]
    yield f"from epoch {rule.from_epoch} on, where {what}; design points never"
    left_out = [name for name in spec.objectives if name not in compared]
    if left_out:
        yield f"not compared, as it is measured at the end alone: {', '.join(left_out)}"


def _budget(plan: Plan, options: Options, used: Usage, side_by_side: int, seconds: float) -> Iterator[str]:
    """A line for each limit of the budget: what is used, what the rest will use, and whether the limit stops it."""
    budget, resources = plan.spec.budget, options.resources
    allotment = Allotment(resources.cpus_per_trial, resources.gpus_per_trial)
    if options.resources.address is None and not resources.gpus_per_trial:
        allotment = allotment.on(Machine(os.cpu_count() or 1, 0))
    in_turn = seconds * min(side_by_side, plan.to_do)
    rest = replace(allotment.used(in_turn), trials=plan.to_do)
    for share, more in zip(shares(budget, used), shares(budget, rest), strict=True):
        if share.limit is None:
            continue
        if share.spent:
            yield f"{share} used: it is spent" if plan.to_do else f"{share} used"
            continue
        about = "" if share.name == "trials" else "about "
        beyond = ": too little, the study will stop before its end" if share.used + more.used > share.limit else ""
        yield f"{share} used, {about}{amount(more.used)} more to run{beyond}"
    if budget.hours is not None:
        beyond = ": too little for one run of the command" if seconds > budget.hours * SECONDS_PER_HOUR else ""
        yield f"{amount(budget.hours)} hours for a run of the command{beyond}"
    if budget.max_failed_trials is not None:
        yield f"{budget.max_failed_trials} trials may fail in a run of the command"
