"""How long the commands take to start, and the imports that they wait for.

Each command is a process of its own, run as often as `--repetitions` says; each repetition runs all of them one after
the other. Times are wall times: medians, with the least and the most behind them. With `--reference DIR`, the folder of
another checkout, each command is also run with that code right before, and "reference / this" is the ratio within each
repetition: above 1 this checkout is faster. The same command on a finished study needs `--store`, a folder in which the
quickstart has been run; a plan of MNIST needs `--data`.

    python benchmarks/start.py --data DIR --store runs
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import hardware, spread

HERE = Path(__file__).parents[1]
IMPORTS = ("torch", "mlflow.tracking", "optuna", "ray.tune", "sklearn.datasets", "matplotlib.figure")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, metavar="DIR", help="another checkout of this project")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data sets")
    parser.add_argument("--store", type=Path, metavar="DIR", help="folder in which the quickstart is finished")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N")
    options = parser.parse_args()
    commands = study_commands(options.data, options.store)
    with tempfile.TemporaryDirectory() as folder:
        # A store of its own: two versions would write their reports over each other's.
        copy = shutil.copytree(options.store, Path(folder) / "store") if options.store is not None else None
        measure(options, commands, study_commands(options.data, copy))


def measure(options: argparse.Namespace, commands: dict[str, list[str]], of_reference: dict[str, list[str]]) -> None:
    """Run everything and print the table."""
    here: dict[str, list[float]] = {name: [] for name in commands}
    there: dict[str, list[float]] = {name: [] for name in commands}
    imports: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(options.repetitions):
        for name, arguments in commands.items():
            if options.reference is not None:
                there[name].append(seconds_of_study(options.reference.resolve(), of_reference[name]))
            here[name].append(seconds_of_study(HERE, arguments))
        for module in IMPORTS:
            imports[module].append(seconds_of([sys.executable, "-c", f"import {module}"], HERE))
    print_table(here, there if options.reference is not None else None, imports, options.repetitions)


def study_commands(data: Path | None, store: Path | None) -> dict[str, list[str]]:
    """The arguments of `study/run.py` by what the table calls them."""
    commands = {"--help": ["--help"], "--list": ["--list"]}
    if data is not None:
        commands["mnist --plan"] = ["mnist", "--plan", "--data", str(data.resolve())]
    if store is not None:
        commands["quickstart, finished"] = ["quickstart", "--store", str(store.resolve())]
    return commands


def seconds_of_study(checkout: Path, arguments: list[str]) -> float:
    """Wall time of a command of `study/run.py` with the code of a checkout."""
    return seconds_of([sys.executable, str(checkout / "study" / "run.py"), *arguments], checkout)


def seconds_of(command: list[str], checkout: Path) -> float:
    """Wall time of a process in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def print_table(
    here: dict[str, list[float]], there: dict[str, list[float]] | None, imports: dict[str, list[float]], n: int
) -> None:
    """A row per command and import."""
    table = Table("command", "seconds", title=f"start-up, n = {n}: median (least–most)")
    if there is not None:
        table.add_column("seconds, reference")
        table.add_column("reference / this")
    for name, seconds in here.items():
        row = [name, spread(np.array(seconds), ".2f")]
        if there is not None:
            before = np.array(there[name])
            row += [spread(before, ".2f"), spread(before / np.array(seconds), ".1f")]
        table.add_row(*row)
    for module, seconds in imports.items():
        table.add_row(f"import {module}", spread(np.array(seconds), ".2f"))
    console = Console()
    console.print(table)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "optuna", "ray"))
    console.print(f"{hardware('cpu')}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
