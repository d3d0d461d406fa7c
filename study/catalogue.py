"""`study/run.py --list`: the named studies with their questions and costs, and the tasks."""

import optuna
from rich.console import Console
from rich.padding import Padding

from study.options import DATA_VARIABLE
from study.progress import format_seconds
from study.sampling import random_points
from study.spec import StudySpec, build_spec, named_studies, read_study
from trainables.cost import WORK_PER_SECOND, work
from trainables.tasks import TASKS, get_task


def print_catalogue(console: Console) -> None:
    """Print every named study and every task."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in named_studies():
        spec = build_spec(read_study(name), name)
        console.print(f"[bold]{name}[/bold]", highlight=False)
        console.print(Padding(spec.question, (0, 0, 0, 2)), highlight=False)
        console.print(Padding(f"{stated_cost(spec)}\n", (0, 0, 0, 2)), style="dim", highlight=False)
    console.print("Times are rough: of one CPU core, nothing is timed. --plan times this machine.\n\nTasks:")
    for task in TASKS.values():
        console.print(f"  {task.name}: {task.summary}", highlight=False)
    needing = [name for name, task in TASKS.items() if task.needs_data_root]
    console.print(f"\nTasks with data files ({', '.join(needing)}) look in --data DIR, ${DATA_VARIABLE} or ./data.")


def stated_cost(spec: StudySpec) -> str:
    """What a whole study is, and how long one CPU core would take, in words; nothing is timed for it."""
    points = list(spec.points())
    shape = get_task(spec.task).shape
    of_points = sum(work(config, shape) for point in points if (config := spec.trial_config(point)) is not None)
    sampled, trials = 0.0, len(points) if spec.trials is None else spec.trials
    if trials > len(points):
        others = [config for point in random_points(spec) if (config := spec.trial_config(point)) is not None]
        sampled = (trials - len(points)) * sum(work(config, shape) for config in others) / len(others)
    seconds = (of_points + sampled) / WORK_PER_SECOND
    networks = trials * spec.replicates
    return (
        f"{spec.task}, {trials} trials × {spec.replicates} replicates × {spec.training.epochs} epochs "
        f"({networks:,} networks): about {format_seconds(seconds)}"
    )
