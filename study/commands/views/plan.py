"""The plan, for a person to read."""

import os
from typing import Any

from rich.console import Console
from rich.table import Table

from study.commands.options import Options
from study.commands.views.durations import format_seconds
from study.engine.plan import Plan
from study.spec.dimensions import SEARCHED, SearchSpace
from trainables.auxiliary import OPTIONS


def print_plan(plan: Plan, options: Options, console: Console) -> None:
    """Print trials, replicates, epochs, finished trials and the estimated time."""
    spec, training, rlct = plan.spec, plan.spec.training, plan.spec.rlct
    fitting = max(1, (os.cpu_count() or 1) // options.resources.cpus_per_trial)
    side_by_side = 1 if options.runner == "local" else min(fitting, options.resources.concurrent or fitting)
    seconds, timed = plan.estimate_seconds(side_by_side)
    basis = (
        "by timing a piece of one on this machine"
        if timed
        else "a rough estimate for CPU cores, as timing would take long"
    )
    samples = plan.data.shape.training_size(training.validation_fraction)
    held_out = len(plan.data.train_labels) - samples
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "task",
        f"{spec.task}: {samples:,} training, {held_out:,} validation, {len(plan.data.test_labels):,} test samples",
    )
    if held_out == 0:
        table.add_row("", "published recipe: no validation split, the test split is reported")
    if spec.sampler == "grid":
        table.add_row("trials", f"{plan.trials}, every point of the grid")
    elif spec.sampler == "design":
        table.add_row("trials", f"{plan.trials}, the design points")
    else:
        table.add_row("trials", f"{plan.trials}: {len(plan.listed)} design points, then sampler {spec.sampler}")
    table.add_row("replicates", f"{spec.replicates} per trial, {plan.trials * spec.replicates:,} networks")
    table.add_row(
        "epochs", f"{training.epochs} per network, {plan.trials * spec.replicates * training.epochs:,} in all"
    )
    table.add_row("rlct", f"{rlct.chains} chains × {rlct.draws} draws per network")
    for name in SEARCHED:
        chosen = spec.choices(name)
        if name not in OPTIONS or chosen != [SearchSpace.model_fields[name].default]:
            table.add_row(name, _in_words(getattr(spec.space, name) if chosen is None else chosen))
    table.add_row("objectives", ", ".join(f"{direction} {name}" for name, direction in spec.objectives.items()))
    table.add_row("store", str(options.stores.root))
    table.add_row("done already", f"{plan.done} trials")
    table.add_row("to run", f"{plan.remaining} trials")
    table.add_row(
        "estimated time",
        f"{format_seconds(seconds)} with {side_by_side} trial(s) side by side, {basis}"
        if plan.remaining
        else "none: everything is finished",
    )
    console.print(table)
    console.print("Nothing was run. Leave out --plan to run it.")


def _in_words(dimension: Any) -> str:
    if isinstance(dimension, list) and len(dimension) == 1:
        return _in_words(dimension[0])
    if isinstance(dimension, list):
        return "one of " + ", ".join(
            f"{choice:g}" if isinstance(choice, float) else str(choice) for choice in dimension
        )
    if hasattr(dimension, "low"):
        text = f"{dimension.low:g} to {dimension.high:g}" + (", logarithmic" if dimension.log else "")
        return text + (", or 0 (baseline)" if getattr(dimension, "baseline", False) else "")
    return str(dimension)
