"""A study as a process of its own: started, watched line by line, sent signals."""

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import pytest

SMALL = """
question: Does it end well?
task: digits
replicates: 1
sampler: grid
space: {{hidden_layers: 1, width: 8, aux_weight: [0, 1, 2, 5, 10, 20], target_depth: 1}}
training: {{epochs: {epochs}}}
rlct: {{draws: 8, chains: 2, batch_size: 32}}
observer: {{epochs: 0}}
"""


@dataclass
class Command:
    """A running command, with its output and errors in one stream."""

    process: "subprocess.Popen[str]"
    folder: Path
    terminal: int | None = None
    printed: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @classmethod
    def run_study(
        cls,
        folder: Path,
        *arguments: str,
        epochs: int = 3,
        environment: Mapping[str, str] | None = None,
        on_terminal: bool = False,
    ) -> "Command":
        """Run the small study in a folder."""
        (folder / "small.yaml").write_text(SMALL.format(epochs=epochs))
        start = cls.start_on_terminal if on_terminal else cls.start
        return start(folder, "study.run", "small.yaml", *arguments, environment=environment)

    @classmethod
    def start(
        cls, folder: Path, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> "Command":
        """Run a module in a folder."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=os.environ | dict(environment or {}),
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return cls(process, folder)

    @classmethod
    def start_on_terminal(
        cls, folder: Path, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> "Command":
        """Run a module in a folder on a terminal of its own, which `close_terminal` closes."""
        ours, its = pty.openpty()
        # The session's first terminal becomes its controlling one, whose end sends SIGHUP.
        take_terminal = "import os, runpy, sys; os.open(os.ttyname(0), os.O_RDWR); del sys.argv[0]"
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{take_terminal}; runpy.run_module(sys.argv[0], run_name='__main__')",
                module,
                *arguments,
            ],
            cwd=folder,
            env=os.environ | dict(environment or {}),
            text=True,
            start_new_session=True,
            stdin=its,
            stdout=its,
            stderr=its,
        )
        os.close(its)
        return cls(process, folder, terminal=ours)

    def close_terminal(self) -> None:
        """Close the command's terminal, as when its window is closed."""
        assert self.terminal is not None
        os.close(self.terminal)

    def wait_for(self, beginning: str) -> None:
        """Return when a line of output begins like this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line
            if line.startswith(beginning):
                return
        pytest.fail(f"no line began with {beginning!r}:\n{self.printed}")

    def wait_for_a_trial(self) -> None:
        """Return when the record has a trial."""
        while self.process.poll() is None:
            # With SQLite alone: MLflow would create the tables that the command is creating.
            try:
                file = self.folder / "runs" / "mlflow.db"
                with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
                    if database.execute("select 1 from tags where key = 'level' and value = 'trial'").fetchone():
                        return
            except sqlite3.Error:
                pass
            time.sleep(0.1)
        pytest.fail(f"it ended without a trial:\n{self.process.communicate()[0]}")

    def end(self, seconds: float = 120) -> int:
        """Read the rest of the output, and return the exit code."""
        self.printed += self.process.communicate(timeout=seconds)[0]
        return self.process.returncode

    def kill(self) -> None:
        """Kill the driver alone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def children(self) -> list[psutil.Process]:
        """All processes that it has started, and those that these have started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def text(self) -> str:
        """What it has printed, without line breaks."""
        return " ".join(self.printed.split())


def still_running(processes: Iterable[psutil.Process], patience: float = 30) -> list[psutil.Process]:
    """Those of the processes that have not ended after this many seconds; a zombie has ended."""
    end = time.monotonic() + patience
    left = [process for process in processes if _runs(process)]
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = [process for process in left if _runs(process)]
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
