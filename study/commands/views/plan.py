"""The plan, for a person to read."""

import os

from rich.console import Console
from rich.table import Table

from study.commands.options import Options
from study.commands.views.durations import format_seconds
from study.commands.views.space import add_space
from study.commands.views.standing import growing
from study.engine.plan import Plan


def print_plan(plan: Plan, options: Options, console: Console) -> None:
    """Print trials, replicates, epochs, finished trials and the estimated time."""
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
        samples = data.shape.training_size(spec.training_of(task).validation_fraction)
        held_out = len(data.train_labels) - samples
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
    console.print(table)
    console.print("Nothing was run. Leave out --plan to run it.")
