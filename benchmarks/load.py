"""What the service costs with many trials: each step's processor time in the driver, how it grows, and its memory.

A study's trials report at once the result of one trial that was run before, and go through the whole path: ledger,
search, the MLflow record and Optuna's stored study, both in SQLite files. `--runner here` runs them in this process, in
turn, each with an rlct of its own; `--runner ray` through Ray Tune. Then come the steps around a run, on the
record that it has left. Each number of trials has a process of its own. The exponent is the slope of log(seconds) over
log(trials): 1 is linear. Tables are Markdown.

    python benchmarks/load.py --trials 100 300 1000 3000
    python benchmarks/load.py --trials 100 300 1000 --sampler tpe
    python benchmarks/load.py --trials 10000 --runner ray --store load-runs

With --store the studies stay there: if the benchmark is cut, the same command goes on, and its figures are those of the
trials that it has run itself.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from analysis import read_record, write_report
from benchmarks.machine import hardware
from benchmarks.overhead import reporting
from study.engine import ray_tune
from study.engine.estimation import Job
from study.engine.execute import execute
from study.engine.ledger import Ledger
from study.engine.packing import Packing
from study.engine.plan import Plan, make_plan
from study.engine.resources import Device, Resources
from study.engine.runner import Estimated, Runner, RunTrial, StudyData, Weights
from study.engine.runners import make_runner
from study.engine.worker import run_trial
from study.record.outcome import Outcome, Progress
from study.record.overview import overview
from study.record.reader import RecordReader
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.search import WAIT, Search
from study.search.store import opened_storage, rebuild, reconcile
from study.search.view import view_of
from study.spec import StudySpec, build_spec
from trainables.tasks import load_task

NAME = "load"
# After how many trials the driver's memory is looked at: after these, and in blocks.
LOOKS, BLOCK = (50, 100, 200), 500
# Most choices of one dimension of a space.
CHOICES = 1000
# What is timed within a run: methods of a class by the part that they belong to.
PARTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "search: suggest": (Search, ("ask",)),
    "Optuna: stored study": (Search, ("start", "tell")),
    "MLflow: begin": (RecordWriter, ("begin_trial", "place_trial")),
    "MLflow: epochs": (RecordWriter, ("log_epochs",)),
    "MLflow: result": (RecordWriter, ("finish_trial",)),
}
WHOLE = "run: all of it"


class NullTrial(NamedTuple):
    """What every trial reports."""

    outcome: Outcome
    rest: Progress
    files: Path


class Run(NamedTuple):
    """A run of n trials."""

    trials: int  # that ended in it
    tasks: int  # of Ray Tune in which they ran
    seconds: dict[str, float]  # of the driver's processor, by part
    wall: float
    megabytes: list[tuple[int, float]]  # of the driver, after so many trials


class HereRunner:
    """Ends every trial of a ledger at once, in this process."""

    resources = Resources()
    workers = 1

    def __init__(self, null: NullTrial):
        self._null = null

    def connected(self) -> AbstractContextManager[None]:
        """Nothing to connect to."""
        return nullcontext()

    def run_trials(self, ledger: Ledger[Any], data: Mapping[str, StudyData]) -> None:
        """Give each trial the null trial's result."""
        while (trial := ledger.next()) is not None:
            assert trial is not WAIT
            ledger.start(trial)
            ledger.advance(trial, self._null.rest)
            ledger.finish(trial, varied(self._null.outcome, trial.key), self._null.files)

    def run_estimates(
        self, jobs: Sequence[Job], weights: Weights, data: Mapping[str, StudyData]
    ) -> Generator[tuple[Job, Estimated | Exception]]:
        """There are none."""
        yield from ()


class Memory:
    """The study's watcher: it notes the driver's memory, and shows progress."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._ended = 0
        self._started = time.monotonic()
        self._process = psutil.Process()
        self.megabytes: list[tuple[int, float]] = []

    def started(self, item: RunTrial) -> None:
        """Nothing to do."""

    def advanced(self, item: RunTrial, stage: str) -> None:
        """Nothing to do."""

    def finished(self, item: RunTrial, result: Outcome) -> None:
        """Look once in a block."""
        self._ended += 1
        if self._ended in LOOKS or self._ended % BLOCK == 0:
            self.megabytes.append((self._ended, self._process.memory_info().rss / 1e6))
            rate = self._ended / (time.monotonic() - self._started)
            print(f"{self._ended:,} of {self._trials:,} trials, {rate:.1f} a second", file=sys.stderr, flush=True)

    def failed(self, item: RunTrial, reason: str) -> None:
        """No trial can fail."""
        raise RuntimeError(reason)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300, 1000, 3000], metavar="N")
    parser.add_argument("--sampler", choices=("grid", "random", "tpe"), default="grid")
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="epochs that a trial reports (default: 1)")
    parser.add_argument("--replicates", type=int, default=2, metavar="N", help="replicates of a trial (default: 2)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the studies here, and go on with them")
    parser.add_argument("--runner", choices=("here", "ray"), default="here")
    parser.add_argument("--without-steps", action="store_true", help="run the trials, not the steps around a run")
    options = parser.parse_args()
    if options.sampler == "grid" and any(trials % -(-trials // CHOICES) for trials in options.trials):
        parser.error(f"--trials: no grid of at most {CHOICES:,} weights for each width has that many trials.")
    seconds: dict[str, dict[int, float]] = defaultdict(dict)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        null = make_null_trial(Path(folder), options)
        for trials in options.trials:
            place = (options.store or Path(folder)) / str(trials)
            # Memory that a smaller study has left free would hide what this one takes.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                warm = Path(folder) / f"warm-{trials}"
                runs[trials], of_steps = process.submit(measure_warm, trials, options, null, place, warm).result()
            for name, each in (runs[trials].seconds | of_steps).items():
                seconds[name][trials] = each
            # At every size: a later one may take long.
            print_tables(seconds, runs, options)


def a_spec(trials: int, options: argparse.Namespace) -> StudySpec:
    """A study of that many trials: a grid of weights, the baseline's among them, and widths; or a search."""
    sampler = options.sampler
    space: dict[str, Any] = {"hidden_layers": 1, "target_depth": 1}
    if sampler == "grid":
        widths = -(-trials // CHOICES)
        space |= {"width": [*range(8, 8 + widths)], "aux_weight": [*map(float, range(trials // widths))]}
    else:
        space |= {"width": {"low": 8, "high": 64}, "aux_weight": {"low": 0.01, "high": 100.0, "log": True}}
    raw = {
        "name": NAME,
        "task": "digits",
        "replicates": options.replicates,
        "sampler": sampler,
        "space": space,
        "training": {"epochs": options.epochs},
        "rlct": {"draws": 50, "chains": 2, "batch_size": 32},
        "observer": {"epochs": 1, "width": 8},
    }
    return build_spec(raw if sampler == "grid" else raw | {"trials": trials}, NAME)


def make_null_trial(folder: Path, options: argparse.Namespace) -> NullTrial:
    """Run one trial."""
    plan = plan_of(a_spec(3, argparse.Namespace(**vars(options) | {"sampler": "grid"})))
    files = folder / "files"
    files.mkdir()
    config, data = plan.listed[1].config, plan.data["digits"]
    reported: list[dict[str, list[float]]] = []  # all epochs in one report, however long the trial took
    outcome, rest = run_trial(config, data, Device(1, False), lambda progress: reported.extend(progress.epochs), files)
    return NullTrial(outcome, rest._replace(epochs=reported + rest.epochs), files)


def varied(outcome: Outcome, key: str) -> Outcome:
    """The outcome with another rlct, which follows from the trial's key; the measures of its epochs stay."""
    random = np.random.default_rng(int(key[:8], 16))
    rlct = [value * float(random.normal(1, 0.01)) for value in outcome.measurements["rlct"]]
    return replace(outcome, measurements=outcome.measurements | {"rlct": rlct})


def plan_of(spec: StudySpec, record: RecordReader | None = None) -> Plan:
    """The plan of a study of digits."""
    return make_plan(spec, [load_task("digits")], record)


def measure_warm(
    trials: int, options: argparse.Namespace, null: NullTrial, folder: Path, warm: Path
) -> tuple[Run, dict[str, float]]:
    """The same as `measure`, after a few trials, so that none pays for imports and for the making of tables."""
    measure(5, options, "here", null, warm)
    return measure(trials, options, options.runner, null, folder)


def measure(
    trials: int, options: argparse.Namespace, kind: str, null: NullTrial, folder: Path
) -> tuple[Run, dict[str, float]]:
    """Run that many trials, and the steps around a run."""
    stores = Stores.under(folder)
    spec = a_spec(trials, options)
    if kind == "ray":
        ray_tune._train = reporting(null.outcome, null.rest, null.files)
    runner = make_runner("ray", Resources(), stores, NAME) if kind == "ray" else HereRunner(null)
    run = run_study(spec, stores, runner)
    return run, {} if options.without_steps else dict(around(spec, stores, null))


def run_study(spec: StudySpec, stores: Stores, runner: Runner) -> Run:
    """Run a study's trials that have not ended."""
    plan = plan_of(spec, None if stores.is_empty else RecordReader(stores, NAME))
    memory, started = Memory(plan.remaining), time.perf_counter()
    with timed_parts() as seconds, counted_tasks() as tasks, timed(seconds, WHOLE):
        execution = execute(plan, RecordWriter(stores, NAME), runner, memory)
    assert execution.finished == plan.remaining
    return Run(execution.finished, len(tasks), dict(seconds), time.perf_counter() - started, memory.megabytes)


@contextmanager
def counted_tasks() -> Generator[list[int]]:
    """The number of trials of each task of Ray Tune."""
    tasks: list[int] = []
    take = Packing.take

    def noting(packing: Packing) -> Any:
        if isinstance(task := take(packing), list):
            tasks.append(len(task))
        return task

    Packing.take = noting  # type: ignore[assignment, method-assign]
    try:
        yield tasks
    finally:
        Packing.take = take  # type: ignore[method-assign]


def around(spec: StudySpec, stores: Stores, null: NullTrial) -> dict[str, float]:
    """Processor seconds of each step around a run, on the record of a finished study."""
    seconds: dict[str, float] = defaultdict(float)
    with timed(seconds, "read: finished trials"):
        finished = RecordReader(stores, NAME).finished()
    with timed(seconds, "read: trials begun"):
        begun = RecordReader(stores, NAME).trials()
    with timed(seconds, "plan"):
        plan = plan_of(spec, RecordReader(stores, NAME))
        assert plan.to_do == 0
        assert not plan.growing
    with timed(seconds, "plan: more replicates"):
        more = spec.model_copy(update={"replicates": spec.replicates + 1})
        assert len(plan_of(more, RecordReader(stores, NAME)).growing) == len(finished)
    with timed(seconds, "status"):
        assert overview(RecordReader(stores, NAME), patiently=False).trials.finished == len(finished)
    with timed(seconds, "Optuna: view of the record"):
        view = view_of(spec, finished, begun)
    record = RecordReader(stores, NAME).run_id
    with opened_storage(stores.optuna_url) as storage:
        with timed(seconds, "Optuna: compare with the record"):
            assert not reconcile(spec, storage, view, record)
        with timed(seconds, "Optuna: build from the record"):
            rebuild(spec, storage, view, record)
    with timed(seconds, "run again: nothing is left"):
        assert execute(plan, RecordWriter(stores, NAME), HereRunner(null), Memory(0)).ended == 0
    if not spec.is_enumerated:
        with timed(seconds, "run again: one trial more"):
            longer = plan_of(spec.model_copy(update={"trials": len(finished) + 1}), RecordReader(stores, NAME))
            assert execute(longer, RecordWriter(stores, NAME), HereRunner(null), Memory(1)).ended == 1
    with timed(seconds, "analysis: read"):
        read = read_record(stores.tracking_uri, NAME)
    with timed(seconds, "analysis: report"):
        write_report(read, stores.report_folder(NAME), "")
    return seconds


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Generator[None]:
    """Add the processor seconds of a block, of all threads of this process, to those of that name."""
    started = time.process_time()
    try:
        yield
    finally:
        seconds[name] += time.process_time() - started


@contextmanager
def timed_parts() -> Generator[dict[str, float]]:
    """Time the methods of PARTS in a block."""
    seconds: dict[str, float] = dict.fromkeys((*PARTS, WHOLE), 0.0)
    before = [(kind, name, getattr(kind, name)) for kind, names in PARTS.values() for name in names]
    for part, (kind, names) in PARTS.items():
        methods = {name: getattr(kind, name) for name in names}
        for name in names:

            def method(*arguments: Any, _part: str = part, _method: Any = methods[name], **named: Any) -> Any:
                with timed(seconds, _part):
                    return _method(*arguments, **named)

            setattr(kind, name, method)
    try:
        yield seconds
    finally:
        for kind, name, former in before:
            setattr(kind, name, former)


def exponent(seconds: Mapping[int, float]) -> float:
    """The slope of log(seconds) over log(trials); NaN for a single number of trials."""
    if len(seconds) < 2:
        return float("nan")
    return float(np.polyfit(np.log([*seconds]), np.log([*seconds.values()]), 1)[0])


def print_tables(
    seconds: Mapping[str, Mapping[int, float]], runs: Mapping[int, Run], options: argparse.Namespace
) -> None:
    """A row per step; below it speed and memory of each run."""
    console = Console(width=160)
    table = Table("step", *(f"{trials:,}" for trials in runs), "ms a trial", "exponent", box=box.MARKDOWN)
    last = max(runs)
    for name, each in seconds.items():
        here = runs[last].trials if name in runs[last].seconds else last
        a_trial = f"{each[last] / max(here, 1) * 1000:.2f}"
        table.add_row(name, *(f"{each[trials]:.2f}" for trials in runs), a_trial, f"{exponent(each):.2f}")
    console.print(
        f"Processor seconds of the driver by step and number of trials; sampler {options.sampler}, runner "
        f"{options.runner}, {options.replicates} replicates, {options.epochs} epochs, n = 1:"
    )
    console.print(table)
    table = Table("trials", "tasks", "wall, s", "trials / s", "driver's CPU, ms a trial", "memory", box=box.MARKDOWN)
    for run in runs.values():
        memory = ", ".join(f"{megabytes:.0f} MB after {ended:,}" for ended, megabytes in run.megabytes)
        cost = f"{run.seconds[WHOLE] / max(run.trials, 1) * 1000:.0f}"
        rate = f"{run.trials / run.wall:.1f}"
        table.add_row(f"{run.trials:,}", f"{run.tasks:,}", f"{run.wall:.0f}", rate, cost, memory)
    console.print(table)
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "mlflow", "optuna", "pandas"))
    nice = f", nice {os.nice(0)}" if os.nice(0) else ""
    console.print(f"{hardware('cpu')}, {os.cpu_count()} cores{nice}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
