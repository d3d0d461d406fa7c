"""What a trial costs beside its training: Ray Tune, the MLflow record and Optuna, without any training.

The trials of a study report, each at once, the result and the files of one trial that was run before. Right before
them, plain Ray Tune runs as many trials of a function that reports a number: the reference. "study / plain" is the
ratio within each repetition. Seconds in the record and the search are those in the study's ledger, on the driver.
Memory is what the driver's process grows by, from the tenth trial to the last. Both have a Ray and a store of their
own in each repetition.

    python benchmarks/overhead.py --trials 200
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from ray import tune
from rich.console import Console
from rich.table import Table

from benchmarks.machine import hardware, spread
from study.engine import ray_tune
from study.engine.execute import execute
from study.engine.ledger import Ledger
from study.engine.plan import make_plan
from study.engine.ray_cluster import connected
from study.engine.resources import Device, Resources
from study.engine.runner import RunTrial
from study.engine.runners import make_runner
from study.engine.worker import run_trial
from study.record.outcome import Outcome, Progress
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import StudySpec, build_spec
from trainables.tasks import load_task

WARM_UP = 10  # trials before memory is measured
SECONDS = 0.01  # that a trial without training says it took


class Cost(NamedTuple):
    """What trials cost, per trial."""

    seconds: float
    cpu_seconds: float  # of the driver
    ledger_seconds: float  # of the driver, in the record and the search
    megabytes: float  # that the driver grows by
    kilobytes_left: float  # in Ray's folder of the store, at the end


class Meter:
    """Watches the driver from the start of the first trial to the end of the last."""

    def __init__(self, trials: int):
        self._trials = trials
        self._started = self._ended = 0
        self._process = psutil.Process()
        self._first = self._last = self._warm = (0.0, 0.0, 0.0)
        self.ledger_seconds = 0.0

    def started(self) -> None:
        """A trial starts."""
        self._started += 1
        if self._started == 1:
            self._first = self._now()

    def ended(self) -> None:
        """A trial has ended."""
        self._ended += 1
        self._last = self._now()
        if self._ended == WARM_UP:
            self._warm = self._last

    def cost(self, folder: Path) -> Cost:
        """The cost per trial; `folder` is Ray's."""
        assert self._ended == self._trials
        left = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        wall, cpu, _ = (last - first for last, first in zip(self._last, self._first, strict=True))
        return Cost(
            wall / self._trials,
            cpu / self._trials,
            self.ledger_seconds / self._trials,
            (self._last[2] - self._warm[2]) / (self._trials - WARM_UP),
            left / 1000 / self._trials,
        )

    def _now(self) -> tuple[float, float, float]:
        """Wall time, processor time in seconds, memory in megabytes."""
        return time.perf_counter(), time.process_time(), self._process.memory_info().rss / 1e6


class Watch:
    """The study's watcher: it only counts."""

    def __init__(self, meter: Meter):
        self._meter = meter

    def started(self, item: RunTrial) -> None:
        """Count it."""
        self._meter.started()

    def advanced(self, item: RunTrial, stage: str) -> None:
        """Nothing to do."""

    def finished(self, item: RunTrial, result: Outcome) -> None:
        """Count it."""
        self._meter.ended()

    def failed(self, item: RunTrial, reason: str) -> None:
        """No trial can fail."""
        raise RuntimeError(reason)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, metavar="N", help="trials of each run (default: 200)")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    options = parser.parse_args()
    plain, ours = [], []
    for _ in range(options.repetitions):
        plain.append(cost_of_plain_tune(options.trials))
        ours.append(cost_of_a_study(options.trials))
    print_table(plain, ours, options.trials)


class Count(tune.Callback):
    """Tells the meter of plain Ray Tune's trials."""

    def __init__(self, meter: Meter):
        self._meter = meter

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count it."""
        self._meter.started()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count it."""
        self._meter.ended()


def cost_of_plain_tune(trials: int) -> Cost:
    """Trials of plain Ray Tune that do nothing."""

    meter = Meter(trials)
    os.environ.update({"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"})
    with tempfile.TemporaryDirectory() as folder, connected(Resources(), Path(folder) / "ray.log"):
        tuner = tune.Tuner(
            tune.with_resources(_report_a_number, {"cpu": 1}),
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
            run_config=tune.RunConfig(name="plain", storage_path=folder, callbacks=[Count(meter)], verbose=0),
        )
        tuner.fit()
        return meter.cost(Path(folder) / "plain")


def _report_a_number(config: dict[str, Any]) -> None:
    tune.report({"value": 1.0})


def cost_of_a_study(trials: int) -> Cost:
    """Trials of a study that report a result at once."""
    spec = a_spec(trials)
    data = load_task(spec.tasks[0])
    plan = make_plan(spec, [data], None)
    with tempfile.TemporaryDirectory() as folder:
        stores = Stores.under(Path(folder) / "runs")
        files = Path(folder) / "files"
        files.mkdir()
        outcome, rest = run_trial(
            plan.listed[0].config, plan.data[spec.tasks[0]], Device(1, False), lambda progress: None, files
        )
        ray_tune._train = reporting(outcome, rest, files)
        meter = Meter(trials)
        ledger_before = time_ledger(meter)
        try:
            runner = make_runner("ray", Resources(), stores, spec.name)
            execute(plan, RecordWriter(stores, spec.name), runner, Watch(meter))
        finally:
            restore_ledger(ledger_before)
        return meter.cost(stores.log_file(spec.name).parent)


def a_spec(trials: int) -> StudySpec:
    """A grid of that many weights, whose trials take a moment."""
    raw = {
        "name": "overhead",
        "task": "digits",
        "replicates": 2,
        "sampler": "grid",
        "space": {"hidden_layers": 1, "width": 8, "target_depth": 1, "aux_weight": [*map(float, range(1, trials + 1))]},
        "training": {"epochs": 20},
        "rlct": {"draws": 50, "chains": 2, "batch_size": 32},
        "observer": {"epochs": 1, "width": 8},
    }
    return build_spec(raw, "overhead")


def reporting(outcome: Outcome, rest: Progress, files: Path) -> Callable[..., None]:
    """A task whose trials report this result and these files at once."""
    folder, seconds = str(files), SECONDS
    as_last_report = ray_tune.as_last_report

    def report(handed_out: dict[str, Any], **constants: Any) -> None:
        trials = len(handed_out["trials"])
        for number in range(1, trials + 1):
            last = as_last_report(outcome, rest, seconds, number < trials)
            tune.report(last, checkpoint=tune.Checkpoint.from_directory(folder))

    return report


METHODS = ("next", "start", "advance", "finish")


def time_ledger(meter: Meter) -> dict[str, Callable[..., Any]]:
    """Add the time in the ledger's methods to the meter; return the methods as they were."""
    before = {name: getattr(Ledger, name) for name in METHODS}
    for name, method in before.items():

        def timed(*arguments: Any, _method: Callable[..., Any] = method) -> Any:
            started = time.perf_counter()
            try:
                return _method(*arguments)
            finally:
                meter.ledger_seconds += time.perf_counter() - started

        setattr(Ledger, name, timed)
    return before


def restore_ledger(methods: dict[str, Callable[..., Any]]) -> None:
    """Put the ledger's methods back."""
    for name, method in methods.items():
        setattr(Ledger, name, method)


ROWS = {
    "seconds": ("wall, s a trial", ".3f"),
    "cpu_seconds": ("driver's CPU, s a trial", ".3f"),
    "ledger_seconds": ("of it record and search, s a trial", ".3f"),
    "megabytes": ("driver grows, MB a trial", ".3f"),
    "kilobytes_left": ("left in Ray's folder, kB a trial", ".2f"),
}


def print_table(plain: list[Cost], ours: list[Cost], trials: int) -> None:
    """A row per cost."""
    title = f"overhead of a trial without training, {trials} trials, n = {len(ours)}: median (least–most)"
    table = Table("cost", "plain Ray Tune", "study", "study / plain", title=title)
    for name, (label, form) in ROWS.items():
        reference, here = (np.array([getattr(cost, name) for cost in costs]) for costs in (plain, ours))
        ratio = spread(here / reference, ".2f") if np.all(reference > 0) else ""
        table.add_row(label, spread(reference, form), spread(here, form), ratio)
    console = Console()
    console.print(table)
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "mlflow", "optuna"))
    console.print(f"{hardware('cpu')}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
