"""Does a study that many random faults hit end with the record of the undisturbed one, and what does a fault cost?

The study runs as a user runs it, two trials at a time, on a Ray of its own (`--ray own`) or on a cluster of three nodes
(`--ray nodes`), with an MLflow server over SQLite (`--record server`) or SQLite alone. Processes and nodes are killed,
signals sent, the server goes away, files are damaged or deleted; when the command ends with another code than 0, it is
typed again. In the end keys, values, files and Optuna's trials are compared with those of the same study that nothing
disturbed: to the last bit, but for times and places.

The order of the faults and the waits before them follow from the seed. Seconds are those of the machine with all that
runs beside.

    python benchmarks/chaos.py --faults 100 --trials 150 --seed 1
    python benchmarks/chaos.py --faults 20 --trials 30 --seed 2 --record file
    python benchmarks/chaos.py --faults 20 --trials 30 --seed 3 --ray nodes
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import hardware, spread
from tests.services.chaos import HEAD, NAME, Chaos, Fault, Happened, make_schedule
from tests.services.mlflow_server import RestartableMLflow
from tests.services.same_record import Recorded, differences
from tests.study.nodes import cluster_of_nodes

CONSOLE = Console(width=160)


def main() -> None:
    """Run the study twice, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100, metavar="N")
    parser.add_argument("--trials", type=int, default=150, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--record", choices=("server", "file"), default="server")
    parser.add_argument("--ray", choices=("own", "nodes"), default="own")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where stores and outputs stay (default: nowhere)")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        undisturbed = Chaos(folder / "undisturbed", options.trials)
        seconds = {"undisturbed": timed(undisturbed, [])}
        CONSOLE.print(f"undisturbed: {options.trials} trials in {seconds['undisturbed']:.0f} s")
        server = None
        if options.record == "server":
            server = RestartableMLflow(folder / "server")
            stack.callback(server.kill)
            server.start()
        nodes = None
        if options.ray == "nodes":
            nodes = stack.enter_context(cluster_of_nodes())
            nodes.start(HEAD, cpus=0)
            for name in ("one", "other"):
                nodes.start(name)
        began = time.perf_counter()

        def tell(happened: Happened) -> None:
            print_fault(happened, time.perf_counter() - began)

        disturbed = Chaos(folder / "disturbed", options.trials, server, nodes, tell)
        seconds["disturbed"] = timed(disturbed, make_schedule(options.seed, options.faults, disturbed.kinds))
        print_kinds(disturbed.happened)
        print_end(undisturbed, disturbed, seconds, options)


def timed(study: Chaos, schedule: Sequence[Fault]) -> float:
    """Run a study to its end; seconds."""
    began = time.perf_counter()
    study.run(schedule)
    return time.perf_counter() - began


def print_fault(happened: Happened, seconds: float) -> None:
    """A line for a fault, as soon as a trial runs again."""
    fault = happened.fault
    ending = "goes on" if happened.code is None else f"exit code {happened.code}"
    back = "study ended" if happened.seconds is None else f"a trial runs after {happened.seconds:.1f} s"
    what = f"{happened.finished} trials: {fault.kind} (wait {fault.wait} s)"
    CONSOLE.print(
        f"{seconds:6.0f} s, {what}; {ending}; {back}; {happened.note}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def print_kinds(happened: Sequence[Happened]) -> None:
    """A row for each kind of fault."""
    table = Table("fault", "n", "the command", "a trial runs after, s", title="faults; median (minimum–maximum)")
    for kind in dict.fromkeys(sorted(each.fault.kind for each in happened)):
        of_kind = [each for each in happened if each.fault.kind == kind]
        codes = sorted({"goes on" if each.code is None else f"exit code {each.code}" for each in of_kind})
        seconds = np.array([each.seconds for each in of_kind if each.seconds is not None])
        table.add_row(kind, str(len(of_kind)), ", ".join(codes), spread(seconds, ".1f") if len(seconds) else "–")
    CONSOLE.print(table)


def print_end(undisturbed: Chaos, disturbed: Chaos, seconds: dict[str, float], options: argparse.Namespace) -> None:
    """What the study has come to, against the undisturbed one."""
    differing = differences(disturbed.place, undisturbed.place, NAME)
    record = Recorded.of(disturbed.place, NAME)
    lost = (seconds["disturbed"] - seconds["undisturbed"]) / max(len(disturbed.happened), 1)
    CONSOLE.print(
        f"{len(disturbed.happened)} faults, {len(disturbed.lives)} commands, {len(record.trials)} trials in "
        f"{seconds['disturbed']:.0f} s; undisturbed {seconds['undisturbed']:.0f} s; {lost:.1f} s lost for each fault"
    )
    CONSOLE.print(f"runs of trials beside the finished ones: {dict(record.left_over())}", markup=False)
    for what, found in (
        ("differences from the undisturbed record", differing),
        ("faults with another exit code than expected", disturbed.surprises()),
        ("files left behind", disturbed.left_behind()),
        ("processes left behind", disturbed.left_running()),
    ):
        CONSOLE.print(f"{what}: {len(found)}", *map(str, found), sep="\n  ", markup=False, soft_wrap=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "mlflow", "optuna", "torch"))
    CONSOLE.print(
        f"seed {options.seed}, record: {options.record}, Ray: {options.ray}; {hardware('cpu')}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    main()
