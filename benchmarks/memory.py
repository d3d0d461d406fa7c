"""How much of a trial's time goes into memory: the allocator's defaults against the service's settings for workers.

One trial of small networks runs in a thread of a fresh process, as on a worker. Runs with and without
WORKER_ENVIRONMENT alternate, `--repetitions` of each. The table has medians, with minimum and maximum: wall time,
kernel time, page faults, and the ratio of wall times without and with the settings, taken within each repetition. The
data is random: speed does not depend on it.

    python benchmarks/memory.py
    python benchmarks/memory.py --architecture mlp --width 128
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import hardware, spread
from study.engine.ray_cluster import WORKER_ENVIRONMENT
from trainables import TASKS, TrialConfig, run_experiment
from trainables.tasks import TaskData

TRAINING_SAMPLES, TEST_SAMPLES = 6000, 2000
MEASURES = {"wall": "wall, s", "kernel": "in the kernel, s", "faults": "page faults, thousands"}


def main() -> None:
    """Measure and print one table; with --once, one measurement as JSON."""
    arguments = parse()
    if arguments.once:
        print(json.dumps(measure(trial(arguments))))
        return
    settings: dict[str, dict[str, str]] = {"as it is": {}, "as workers have it": WORKER_ENVIRONMENT}
    laps = [{name: in_new_process(env) for name, env in settings.items()} for _ in range(arguments.repetitions)]
    report(arguments, laps)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time a trial with and without the workers' allocator settings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--task", choices=("mnist", "cifar10"), default="cifar10", help="task whose shape the data has")
    parser.add_argument("--architecture", default="convnet", help="architecture of the networks")
    parser.add_argument("--hidden-layers", type=int, default=3, help="hidden layers, or stages of a convnet")
    parser.add_argument("--width", type=int, default=8, help="units of a layer, or channels of the first stage")
    parser.add_argument("--replicates", type=int, default=3, help="networks of the trial")
    parser.add_argument("--repetitions", type=int, default=5, help="measurements of each")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def trial(arguments: argparse.Namespace) -> TrialConfig:
    """Two epochs and a few draws."""
    size = {"hidden_layers": arguments.hidden_layers, "width": arguments.width}
    return TrialConfig.from_recipe(
        arguments.task,
        aux_weight=1.0,
        seeds=tuple(range(arguments.replicates)),
        network={"architecture": arguments.architecture, **size},
        training={"epochs": 2, "augment": False},
        rlct={"draws": 20},
        observer={"epochs": 1},
    )


def measure(config: TrialConfig) -> dict[str, float]:
    """Run the trial in a thread: seconds of wall time and in the kernel, thousands of page faults."""
    torch.set_num_threads(1)
    data = random_data(config.task)
    worker = threading.Thread(target=run_experiment, args=(config, data))
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    worker.start()
    worker.join()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    faults = after.ru_minflt - before.ru_minflt
    return {"wall": wall, "kernel": after.ru_stime - before.ru_stime, "faults": faults / 1000}


def random_data(task: str) -> TaskData:
    """Data of the task's shape."""
    shape, generator = TASKS[task].shape, np.random.default_rng(0)

    def inputs(samples: int) -> np.ndarray:
        return generator.random((samples, *shape.inputs.shape), np.float32) * 2 - 1

    def labels(samples: int) -> np.ndarray:
        return generator.integers(shape.classes, size=samples)

    return TaskData(
        task,
        shape.classes,
        inputs(TRAINING_SAMPLES),
        labels(TRAINING_SAMPLES),
        inputs(TEST_SAMPLES),
        labels(TEST_SAMPLES),
    )


def in_new_process(environment: dict[str, str]) -> dict[str, float]:
    """Measure in a fresh process with these variables, which the allocator reads at its start."""
    clean = {name: value for name, value in os.environ.items() if name not in WORKER_ENVIRONMENT}
    command = [sys.executable, *sys.argv, "--once"]
    done = subprocess.run(command, env=clean | environment, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def report(arguments: argparse.Namespace, laps: list[dict[str, dict[str, float]]]) -> None:
    """Print hardware, versions and the table."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"hardware  {hardware('cpu')}, 1 thread of PyTorch")
    console.print(
        f"versions  python {platform.python_version()}, torch {torch.__version__}, {' '.join(platform.libc_ver())}"
    )
    console.print(
        f"settings  n = {len(laps)}, {arguments.task}, {arguments.replicates} × {arguments.architecture} "
        f"{arguments.hidden_layers}x{arguments.width}",
        highlight=False,
    )
    table = Table()
    for heading in ("allocator", *MEASURES.values(), "as it is / this"):
        table.add_column(heading, justify="left" if heading == "allocator" else "right")
    for name in laps[0]:
        cells = [spread(np.array([lap[name][measure] for lap in laps]), ".3g") for measure in MEASURES]
        ratio = np.array([lap["as it is"]["wall"] / lap[name]["wall"] for lap in laps])
        table.add_row(name, *cells, spread(ratio, ".2f"))
    console.print(table)


if __name__ == "__main__":
    main()
