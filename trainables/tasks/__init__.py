"""The tasks. A new task is one file and one line in TASKS."""

from pathlib import Path

from trainables.registry import find
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
        ConfigError: the name is unknown; the message lists the known ones.
    """
    return find("task", name, TASKS)


def load_task(name: str, root: Path | None = None) -> TaskData:
    """Load a task's data into memory; `root` is the folder of the data sets, for tasks that need one.

    Raises:
        ConfigError: the task is unknown.
        DataError: the data is missing and cannot be downloaded, or has the wrong content.
    """
    task = get_task(name)
    data = task.load(root)
    assert data.shape == task.shape, f"the data of {name!r} is {data.shape}, and the task says {task.shape}"
    return data
