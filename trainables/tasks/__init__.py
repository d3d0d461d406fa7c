"""The tasks. A new one is one file and one line in TASKS."""

import difflib
from pathlib import Path

from trainables.errors import ConfigError
from trainables.tasks.base import NO_TOKEN, DataShape, InputSpec, Recipe, Split, Splits, Task, TaskData
from trainables.tasks.cifar10 import Cifar10
from trainables.tasks.digits import Digits
from trainables.tasks.imdb import Imdb
from trainables.tasks.mnist import Mnist

TASKS: dict[str, Task] = {task.name: task for task in (Digits(), Mnist(), Cifar10(), Imdb())}

__all__ = [
    "NO_TOKEN",
    "TASKS",
    "DataShape",
    "InputSpec",
    "Recipe",
    "Split",
    "Splits",
    "Task",
    "TaskData",
    "get_task",
    "load_task",
]


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"task {name!r} is unknown: {hint}the tasks are {', '.join(sorted(TASKS))}")
    return TASKS[name]


def load_task(name: str, root: Path | None = None) -> TaskData:
    """Load a task's data into memory; `root` is the folder of the data sets, for tasks that need one.

    Raises:
        ConfigError: the task is unknown.
        DataError: the data is missing and cannot be fetched, or is not what it should be.
    """
    task = get_task(name)
    data = task.load(root)
    assert data.shape == task.shape, f"the data of {name!r} is {data.shape}, and the task says {task.shape}"
    return data
