"""`python -m study layers`: the layers that a self-model can target."""

import argparse

import rich.box
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from study.commands.console import EXIT_OK
from study.commands.options import Parser
from study.errors import StudyError
from trainables.config import NetworkConfig
from trainables.networks import ARCHITECTURES, architectures_for, layers_of
from trainables.tasks import TASKS, get_task


def list_layers(arguments: list[str], console: Console) -> int:
    """Print the layers of an architecture for a task's inputs, with their depths and sizes."""
    parser = Parser(
        NetworkConfig,
        prog="python -m study layers",
        usage="python -m study layers TASK [ARCHITECTURE] [options]",
        description="The hidden layers of a network, by depth from the input. target_depth can name any of them.",
        epilog="tasks:\n"
        + "".join(f"  {name:<14} {task.summary}\n" for name, task in TASKS.items())
        + "architectures:\n"
        + "".join(f"  {name:<14} {network.summary}\n" for name, network in ARCHITECTURES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("task", metavar="TASK", help="data set")
    parser.add_argument("architecture", metavar="ARCHITECTURE", nargs="?", help="default: that of the task's recipe")
    fields = {name: field for name, field in NetworkConfig.model_fields.items() if name != "architecture"}
    for name, field in fields.items():
        parser.add_argument(
            f"--{name}",
            metavar="VALUE",
            help=f"{field.description} Default: the recipe's for its architecture, {field.default} for others.",
        )
    options = parser.parse_args(arguments)
    task = get_task(options.task)
    architecture = options.architecture or task.recipe.network.architecture
    given = {name: value for name in fields if (value := getattr(options, name)) is not None}
    try:
        config = task.recipe.network_with(given | {"architecture": architecture})
    except ValidationError as error:
        details = error.errors()[0]
        raise StudyError(f"--{details['loc'][0]}: {details['msg']}, got {details['input']}") from error
    inputs = task.shape.inputs
    layers = layers_of(config, inputs)
    table = Table(title=f"{architecture} for {task.name}", title_justify="left", box=rich.box.SIMPLE_HEAD)
    for column in ("depth", "layer", "units", "shape"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for layer in layers:
        table.add_row(str(layer.depth), layer.name, f"{layer.units:,}", "×".join(map(str, layer.shape)))
    console.print(table)
    console.print(f"{architecture}: {ARCHITECTURES[architecture].summary}")
    others = [name for name in architectures_for(inputs) if name != architecture]
    if others:
        console.print(f"Other architectures for {task.name}: {', '.join(others)}")
    return EXIT_OK
