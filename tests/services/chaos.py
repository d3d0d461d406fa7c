"""A study under faults: processes killed, signals, a tracking server that goes away, damaged files.

The study runs as a user runs it, `python study/run.py small.yaml …`, on a Ray of its own or on a cluster of nodes.
Whenever the command ends with another code than 0 it is typed again. Which faults come, in which order and after which
waits, follows from a seed; what they hit is the machine's affair.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from study.commands.console import ENDINGS
from study.record.stores import Stores
from tests.services.mlflow_server import RestartableMLflow
from tests.services.same_record import Place
from tests.study.commands import still_running
from tests.study.nodes import Nodes

NAME = "chaos"
# A search whose sampler looks at results: it goes another way if one of them is missing or different. A trial takes
# about two seconds on one core.
STUDY = f"""
name: {NAME}
question: Does it end with the record that it would have had?
task: digits
replicates: 2
trials: {{trials}}
sampler: {{{{name: tpe, n_startup_trials: 6}}}}
space:
  hidden_layers: [1, 2]
  width: {{{{low: 8, high: 64}}}}
  aux_weight: {{{{low: 0.1, high: 20}}}}
  target_depth: last
training: {{{{epochs: 40}}}}
rlct: {{{{draws: 200, chains: 2, batch_size: 32}}}}
observer: {{{{epochs: 2, width: 16}}}}
"""
REPOSITORY = Path(__file__).parents[2]
# So that no trial counts as failed however often it is hit, and that each has several snapshots.
OPTIONS = ("--concurrent", "2", "--snapshot-interval", "0.2", "--restarts", "1000")
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}
INTERVAL = 0.1
HEAD = "head"  # the cluster's node that is not killed
# Seconds in which a driver must be at work or at its end.
PATIENCE = 300.0
# Commands for each fault, after which the study seems to get nowhere.
MOST_COMMANDS = 3
# Trials by which faults may run ahead.
LAG = 3
DAMAGED = "is damaged"
HELD = "is held by"

WORKER, RAYLET, GCS, DRIVER = "worker killed", "raylet killed", "GCS killed", "driver killed"
AT_START = "driver killed, and again while it starts"
SIGNALS = {f"{number.name} to the driver": number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
AWAY = "MLflow server away"
CUT, GONE = "snapshots cut off, workers killed", "snapshots deleted, workers killed"
NO_OPTUNA, HALF_OPTUNA = "driver killed, optuna.db deleted", "driver killed, optuna.db cut off"
SECOND = "second driver started"
NODE = "node killed, and back later"
# Each with its share. Workers and servers go away more often than drivers, here as elsewhere.
KINDS = {
    WORKER: 10,
    CUT: 5,
    GONE: 5,
    AWAY: 8,
    SECOND: 3,
    NODE: 8,
    RAYLET: 1,
    GCS: 1,
    DRIVER: 1,
    AT_START: 1,
    **dict.fromkeys(SIGNALS, 1),
    NO_OPTUNA: 1,
    HALF_OPTUNA: 1,
}
# The exit codes of a command that met a fault; a command that goes on has none.
CODES: Mapping[str, set[int | None]] = {
    WORKER: {None},
    CUT: {None},
    GONE: {None},
    AWAY: {None},
    SECOND: {None},
    NODE: {None},
    RAYLET: {2},
    GCS: {2},
    DRIVER: {-signal.SIGKILL},
    AT_START: {-signal.SIGKILL},
    **{kind: {128 + number} for kind, number in SIGNALS.items()},
    NO_OPTUNA: {-signal.SIGKILL},
    HALF_OPTUNA: {-signal.SIGKILL},
}


class Fault(NamedTuple):
    """A fault to come: its kind, the seconds to wait before it, and how long it lasts if it is one that lasts."""

    kind: str
    wait: float
    lasts: float


class Happened(NamedTuple):
    """What came of a fault."""

    fault: Fault
    finished: int  # trials that the command had counted before it
    code: int | None  # with which the command ended; None if it went on
    note: str  # the command's or the chaos driver's own words
    seconds: float | None  # until a trial ran again; None if the study ended first


def make_schedule(seed: int, count: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Fault]:
    """So many faults in an order that follows from the seed: each kind once, and the others by their shares."""
    drawn = random.Random(seed)
    each = list(kinds)[:count]
    each += drawn.choices(list(kinds), [KINDS[kind] for kind in kinds], k=count - len(each))
    drawn.shuffle(each)
    return [Fault(kind, round(drawn.uniform(0.1, 1.5), 2), round(drawn.uniform(1, 6), 1)) for kind in each]


@dataclass
class Life:
    """One life of the driver: the command, from its start to its end."""

    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def text(self) -> str:
        """What it has printed, without line breaks."""
        return " ".join(self.output.read_text(errors="replace").split())

    @property
    def unfinished(self) -> int | None:
        """The trials that it has not counted as finished; None before it has counted."""
        counted = re.findall(r"\[(\d+)/(\d+),", self.text)
        return int(counted[-1][1]) - int(counted[-1][0]) if counted else None

    @property
    def last_words(self) -> str:
        """How it has ended, in a sentence of its own, if it has said so."""
        beginnings = ("error:", *ENDINGS.values())
        lines = self.output.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.startswith(beginnings)), "")


@dataclass
class Chaos:
    """Runs the study in a folder to its end, under the faults of a schedule.

    Args:
        folder: of the study file and, in `store`, of its record.
        trials: of the study.
        server: the tracking server, which is running; without one the record is a SQLite file.
        nodes: the cluster, which is running: a head without CPUs, and nodes of one CPU each. Without one, the study
            starts a Ray of its own.
        tell: is given a line for each fault.
    """

    folder: Path
    trials: int
    server: RestartableMLflow | None = None
    nodes: Nodes | None = None
    tell: Callable[[Happened], None] = lambda happened: None
    lives: list[Life] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    family: set[psutil.Process] = field(default_factory=set)  # every process that a life has had, as far as seen
    _server_back: float | None = None  # when it is to be started again
    _node_back: tuple[float, str] | None = None  # the same of a node, and its name
    _planned: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "small.yaml").write_text(STUDY.format(trials=self.trials))

    @property
    def stores(self) -> Stores:
        """Where the study's record and files are."""
        return Stores.under(self.folder / "store", self.server.uri if self.server else None)

    @property
    def place(self) -> Place:
        """The same, for a comparison."""
        return Place(self.stores, self.server.database if self.server else self.stores.root / "mlflow.db")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of faults that can befall it."""
        impossible = {NODE} if self.nodes is None else {RAYLET, GCS}
        impossible |= {AWAY} if self.server is None else set()
        return tuple(kind for kind in KINDS if kind not in impossible)

    def run(self, schedule: Sequence[Fault]) -> None:
        """Run the study to its end, under these faults.

        Raises:
            AssertionError: the command does not end, or does not go on after a fault.
        """
        self._planned = len(schedule)
        try:
            for fault in schedule:
                if not self._befall(fault):
                    break
            while self._end() != 0:
                self._start()
        finally:
            self._kill_what_is_left()

    @property
    def finished(self) -> int:
        """The finished trials that the commands have counted; each counts those that it is to run."""
        return self.trials - min(
            (each for life in self.lives if (each := life.unfinished) is not None), default=self.trials
        )

    def surprises(self) -> list[Happened]:
        """The faults after which the command did something else than it should; it may have been at its end."""
        return [each for each in self.happened if each.code not in CODES[each.fault.kind] | {0}]

    def left_running(self) -> list[psutil.Process]:
        """Processes of a study that has ended: all that it had on a Ray of its own, its workers on a cluster."""
        end = time.monotonic() + 30
        while (workers := self._workers()) and time.monotonic() < end:
            time.sleep(INTERVAL)
        return still_running(self.family) + workers

    def left_behind(self) -> list[str]:
        """What a study that has ended should not have left in its store: snapshots, and results without a record."""
        store = self.folder / "store"
        found = [*self._snapshots.rglob("*"), *(store / "outbox").rglob("*")]
        return [str(file.relative_to(store)) for file in found if file.is_file()]

    def _befall(self, fault: Fault) -> bool:
        """Let a fault happen, and see what comes of it; False if the study has ended before."""
        if not self._is_at_work():
            return False
        if fault.kind in (CUT, GONE):
            self._wait(lambda: not self._runs or any(self._snapshots.glob("*/snapshot")), "a snapshot")
        self._let_pass(fault)
        life, finished = self.lives[-1], self.finished
        if life.process.poll() == 0:
            return False
        began = time.monotonic()
        note = self._do(fault, life)
        code = self._code_after(fault, life)
        if code is not None:
            note = note or life.last_words
        if fault.kind == HALF_OPTUNA:
            note = self._with_damaged_optuna()
        seconds = self._seconds_to_work(began)
        self.happened.append(Happened(fault, finished, code, note, seconds))
        self.tell(self.happened[-1])
        return True

    def _do(self, fault: Fault, life: Life) -> str:
        """Do the harm; return what is to be said of it."""
        kind = fault.kind
        if kind in (WORKER, CUT, GONE):
            workers = self._workers()[: 1 if kind == WORKER else None]
            for worker in workers:
                _kill(worker)
            assert still_running(workers) == []
            return "" if kind == WORKER else self._damage_snapshots(kind)
        if kind in (RAYLET, GCS):
            for process in self._children():
                with suppress(psutil.NoSuchProcess):
                    if process.name() == ("raylet" if kind == RAYLET else "gcs_server"):
                        _kill(process)
        elif kind in SIGNALS:
            life.process.send_signal(SIGNALS[kind])
        elif kind == AWAY:
            assert self.server is not None
            self.server.kill()
            self._server_back = time.monotonic() + fault.lasts
            return f"for {fault.lasts} s"
        elif kind == SECOND:
            return self._start_second()
        elif kind == NODE:
            return self._lose_a_node(fault.lasts)
        else:
            life.process.kill()
            life.process.wait()
        if kind == AT_START:
            again = self._start()
            end = time.monotonic() + fault.lasts
            while time.monotonic() < end:
                self._tick()
            again.process.kill()
            again.process.wait()
        if kind == NO_OPTUNA:
            (self.folder / "store" / "optuna.db").unlink(missing_ok=True)
        return ""

    def _damage_snapshots(self, kind: str) -> str:
        """Cut off the newest snapshot of each running trial, or delete all of them."""
        folders = [each for each in self._snapshots.glob("*") if each.is_dir()]
        count = 0
        for folder in folders:
            if kind == GONE:
                shutil.rmtree(folder, ignore_errors=True)
                count += 1
            elif (file := folder / "snapshot").exists():
                os.truncate(file, file.stat().st_size // 2)
                count += 1
        return f"of {count} trial(s)"

    def _lose_a_node(self, seconds: float) -> str:
        """Kill a node with all its processes, one with a trial if there is one; it is back after so many seconds."""
        assert self.nodes is not None
        self._wait(lambda: self._node_back is None, "the last node to come back")
        names = [name for name in self.nodes.processes if name != HEAD]
        busy = [name for name in names if self._workers_in(self.nodes.processes[name].pid)]
        name = (busy or names)[0]
        self.nodes.kill(name)
        self._node_back = time.monotonic() + seconds, name
        return f"for {seconds} s"

    def _start_second(self) -> str:
        """Type the command a second time while the first one runs: it must refuse."""
        second = self._type("second.txt")
        while second.process.poll() is None:
            self._tick()
        if self._runs:
            assert second.process.returncode == 2, second.text
        return second.last_words

    def _with_damaged_optuna(self) -> str:
        """Cut Optuna's database off and type the command; if it refuses, do what it says: delete the file."""
        database = self.folder / "store" / "optuna.db"
        if not database.exists():
            return "there was none yet"
        os.truncate(database, database.stat().st_size // 2)
        life = self._start()
        self._wait(lambda: not self._runs or bool(self._workers()), "a refusal or a trial")
        if self._runs:
            return "the log beside it had what was cut off"
        assert life.process.returncode == 2, life.text
        assert DAMAGED in life.text, life.text
        assert "delete it" in life.text, life.text
        database.unlink()
        return life.last_words

    def _code_after(self, fault: Fault, life: Life) -> int | None:
        """The exit code of the command if it ends because of a fault, and None if it goes on."""
        if CODES[fault.kind] == {None}:
            return life.process.poll() or None
        self._wait(lambda: life.process.poll() is not None, f"the command to end after: {fault.kind}")
        return life.process.returncode

    def _seconds_to_work(self, began: float) -> float | None:
        """Seconds since a fault until a trial runs, in a worker that was not killed; None if the study ends first."""
        return time.monotonic() - began if self._is_at_work() else None

    def _let_pass(self, fault: Fault) -> None:
        """Wait as long as the fault says. Faults and trials keep step, so that the whole study is hit."""
        due = self.trials * len(self.happened) / self._planned  # trials that are to have finished
        self._wait(lambda: not self._runs or self.finished >= due - LAG, "trials to finish")
        end = time.monotonic() + fault.wait
        while self._runs and time.monotonic() < end and self.finished <= due:
            self._tick()

    def _is_at_work(self) -> bool:
        """Wait until a trial runs, typing the command if need be; False if the study ends before."""
        end = time.monotonic() + PATIENCE
        while not (self._runs and self._workers()):
            if not self._runs:
                if self.lives and self.lives[-1].process.returncode == 0:
                    return False
                self._start()
            self._tick()
            assert time.monotonic() < end, f"no trial runs: {self.lives[-1].text}"
        return True

    def _end(self) -> int | None:
        """Wait for the end of the command; return its code, None if it has not been typed yet."""
        while self._runs:
            self._tick()
        return self.lives[-1].process.returncode if self.lives else None

    def _start(self) -> Life:
        """Type the command; its tracking server is there, and no worker of a former command."""
        assert len(self.lives) < MOST_COMMANDS * (self._planned + 1), self.lives[-1].text
        while self.server is not None and not _answers(self.server.uri):
            self._tick()
        # Those on a cluster end when it has noticed that their driver is dead.
        self._wait(lambda: not self._workers(), "the former command's workers to end")
        self.lives.append(self._type(f"life-{len(self.lives) + 1:03}.txt"))
        return self.lives[-1]

    def _type(self, output: str) -> Life:
        where = ["--tracking-uri", self.server.uri] if self.server else []
        where += ["--address", self.nodes.address] if self.nodes else []
        with (self.folder / output).open("wb") as file:
            process = subprocess.Popen(
                [
                    sys.executable,
                    str(REPOSITORY / "study" / "run.py"),
                    "small.yaml",
                    "--store",
                    "store",
                    *where,
                    *OPTIONS,
                ],
                cwd=self.folder,
                env=(self.nodes.environment if self.nodes else os.environ) | ENVIRONMENT,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Life(process, self.folder / output)

    def _tick(self) -> None:
        """Let a moment pass: see which processes there are, and start the server if it is time."""
        time.sleep(INTERVAL)
        self.family |= set(self._children())
        if self._server_back is not None and time.monotonic() > self._server_back:
            assert self.server is not None
            self.server.start(wait=False)
            self._server_back = None
        if self._node_back is not None and time.monotonic() > self._node_back[0]:
            assert self.nodes is not None
            self.nodes.start(self._node_back[1])
            self._node_back = None

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            self._tick()
            assert time.monotonic() < end, f"waited in vain for {what}: {self.lives[-1].text}"

    @property
    def _runs(self) -> bool:
        return bool(self.lives) and self.lives[-1].process.poll() is None

    @property
    def _snapshots(self) -> Path:
        return Path(self.stores.snapshots(NAME))

    def _children(self) -> list[psutil.Process]:
        """All processes of the running command."""
        with suppress(psutil.NoSuchProcess):
            if self._runs:
                return psutil.Process(self.lives[-1].process.pid).children(recursive=True)
        return []

    def _workers(self) -> list[psutil.Process]:
        """The processes that run a trial now; on a cluster also those of a command that has ended just now."""
        if self.nodes is not None:
            roots = [process.pid for process in self.nodes.processes.values()]
        else:
            roots = [self.lives[-1].process.pid] if self._runs else []
        return [worker for root in roots for worker in self._workers_in(root)]

    def _workers_in(self, root: int) -> list[psutil.Process]:
        """Those among the processes that a process has started, and that these have started."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(root).children(recursive=True):
                with suppress(psutil.Error):
                    title = " ".join(process.cmdline())
                    if title.startswith("ray::") and "train" in title:
                        found.append(process)
        return found

    def _kill_what_is_left(self) -> None:
        """After an error: end the command, whose guardian ends the rest."""
        if self._runs:
            self.lives[-1].process.kill()
            self.lives[-1].process.wait()


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _answers(uri: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as response:
        return bool(response.status == 200)
    return False
