"""`study/run.py --list`: the named studies with their questions and costs, and the tasks."""

from rich.console import Console
from rich.padding import Padding

from study.commands.options import DATA_VARIABLE
from study.commands.views.durations import format_seconds
from study.spec import StudySpec, build_spec, named_studies, read_study
from trainables.cost import WORK_PER_SECOND, work
from trainables.tasks import TASKS, get_task
from trainables.trial import TrialConfig


def print_catalogue(console: Console) -> None:
    """Print every named study and every task."""
    for name in named_studies():
        spec = build_spec(read_study(name), name)
        console.print(name, style="bold", highlight=False)
        console.print(Padding(spec.question, (0, 0, 0, 2)), highlight=False)
        console.print(Padding(f"{stated_cost(spec)}\n", (0, 0, 0, 2)), style="dim", highlight=False)
    console.print("Times are rough estimates for one CPU core. --plan measures this machine.\n\nTasks:")
    for task in TASKS.values():
        console.print(f"  {task.name}: {task.summary}", highlight=False)
    needing = [name for name, task in TASKS.items() if task.needs_data_root]
    console.print(f"\nTasks with data files ({', '.join(needing)}) look in --data DIR, ${DATA_VARIABLE} or ./data.")


def stated_cost(spec: StudySpec) -> str:
    """A study's size, and the time on one CPU core, in words; nothing is timed."""
    listed = list(spec.listed())
    total = sum(map(_work, listed))
    trials = len(listed) if spec.trials is None else spec.trials
    if trials > len(listed):
        # Optuna takes a while to import, and only studies with a sampler need it.
        from study.search.parameters import random_trials

        others = random_trials(spec)
        total += (trials - len(listed)) * sum(map(_work, others)) / len(others)
    seconds = total / WORK_PER_SECOND
    networks = trials * spec.replicates
    epochs = " or ".join(str(each) for each in dict.fromkeys(spec.training_of(task).epochs for task in spec.tasks))
    return (
        f"{', '.join(spec.tasks)}, {trials} trials × {spec.replicates} replicates × {epochs} epochs "
        f"({networks:,} networks): about {format_seconds(seconds)}"
    )


def _work(config: TrialConfig) -> float:
    return work(config, get_task(config.task).shape)
