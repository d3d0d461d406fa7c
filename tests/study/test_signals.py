"""Ctrl-C, SIGTERM and a closed terminal end a command in the same way: closed records, no processes, how to go on."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from study import interrupts
from study.interrupts import deferred, handlers_kept, interrupt_main_thread, interruptible, received
from study.record.stores import Stores
from tests.study.commands import Command, still_running
from tests.study.synthetic import runs_of
from tests.study.trained import trained_spec, write_trained_study
from trainables.tasks import TaskData

pytestmark = pytest.mark.services

LONG = 100_000  # epochs: the trial runs until it is ended


def statuses(folder: Path, level: str) -> Counter[str]:
    """How many runs of the level have which status."""
    runs = runs_of(Stores.under(folder / "runs"), "small", f"tags.level = '{level}'")
    return Counter(run.info.status for run in runs)


def signal_twice(command: Command, number: signal.Signals) -> None:
    """Send a signal to all processes of the command, as Slurm and a terminal do, and again while it is closing."""
    os.killpg(command.process.pid, number)
    try:
        os.killpg(command.process.pid, number)
    except ProcessLookupError:
        return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_local_run_with_its_record_closed(number: signal.Signals, tmp_path: Path) -> None:
    with Command.run_study(tmp_path, "--runner", "local", epochs=LONG) as command:
        command.wait_for_a_trial()
        signal_twice(command, number)
        assert command.end() == 128 + number
    assert "Everything finished is kept; the same command does the rest: python study/run.py small.yaml" in command.text
    assert "Traceback" not in command.text
    assert statuses(tmp_path, "study") == statuses(tmp_path, "trial") == {"KILLED": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_run_on_ray_with_its_record_closed_and_its_processes(
    number: signal.Signals, tmp_path: Path
) -> None:
    with Command.run_study(tmp_path, "--concurrent", "1", epochs=LONG) as command:
        command.wait_for_a_trial()
        children = command.children()
        assert "raylet" in {child.name() for child in children}
        signal_twice(command, number)
        assert command.end() == 128 + number
    assert "the same command does the rest" in command.text
    assert statuses(tmp_path, "study") == statuses(tmp_path, "trial") == {"KILLED": 1}
    assert still_running(children) == []


@pytest.mark.parametrize(
    ("runner", "line"), [("local", "small"), ("ray", "small"), ("ray", "starting Ray"), ("local", "[6/6")]
)
def test_a_signal_ends_a_study_before_it_runs_while_ray_starts_and_while_the_report_is_made(
    runner: str, line: str, tmp_path: Path
) -> None:
    with Command.run_study(tmp_path, "--runner", runner) as command:
        command.wait_for(line)
        children = command.children()
        signal_twice(command, signal.SIGTERM)
        assert command.end() == 128 + signal.SIGTERM
    assert "Ended by SIGTERM. Everything finished is kept" in command.text
    assert "Traceback" not in command.text
    assert still_running(children) == []
    # Nothing is in the way of the same command.
    with Command.run_study(tmp_path, "--runner", "local") as again:
        assert again.end() == 0, again.printed


def test_a_signal_ends_estimates_and_keeps_the_finished_ones(tmp_path: Path, digits: TaskData) -> None:
    stores = Stores.under(tmp_path / "runs")
    write_trained_study(stores, trained_spec("small"), digits, tmp_path / "files")
    estimate = ["rlct", "estimate", "small", "--runner", "local", "--draws", "100000"]
    with Command.start(tmp_path, "study", *estimate) as command:
        command.wait_for("0 of 5 estimates")
        signal_twice(command, signal.SIGTERM)
        assert command.end() == 128 + signal.SIGTERM
    assert "the same command does the rest: python -m study rlct estimate small" in command.text
    assert "RUNNING" not in statuses(tmp_path, "estimate")


def test_a_study_whose_terminal_closes_ends_although_it_can_print_no_more(tmp_path: Path) -> None:
    with Command.run_study(tmp_path, "--runner", "local", epochs=LONG, on_terminal=True) as command:
        command.wait_for_a_trial()
        command.close_terminal()
        assert command.process.wait(120) == 128 + signal.SIGHUP
    assert statuses(tmp_path, "study") == statuses(tmp_path, "trial") == {"KILLED": 1}


def test_only_the_first_signal_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with interruptible():
            assert received() == signal.SIGTERM
    assert received() is None
    assert signal.getsignal(signal.SIGTERM) == before


def test_writing_ends_before_a_signal_interrupts() -> None:
    written = []

    @deferred()
    def write() -> None:
        signal.raise_signal(signal.SIGTERM)
        with deferred():
            written.append("whole")

    with interruptible(), pytest.raises(KeyboardInterrupt):
        write()
    assert written == ["whole"]


def test_signals_that_were_ignored_before_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
            assert received() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_library_that_takes_sigterm_does_not_keep_it() -> None:
    with interruptible():
        ours = signal.getsignal(signal.SIGTERM)
        with handlers_kept():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        assert signal.getsignal(signal.SIGTERM) == ours
        with pytest.raises(KeyboardInterrupt), handlers_kept():
            _receive_sigterm_as_ray_does()
        assert received() == signal.SIGTERM


def _receive_sigterm_as_ray_does() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    signal.raise_signal(signal.SIGTERM)


def test_another_thread_can_interrupt_the_main_one() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        interrupt_main_thread()
    assert interrupts.received() is None


def test_an_interrupt_that_other_code_swallows_comes_before_the_next_writing() -> None:
    written = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except KeyboardInterrupt:
            pass  # As Python itself does in a finalizer.
        with deferred():
            written.append("half a trial")

    with interruptible(), pytest.raises(KeyboardInterrupt):
        work()
    assert written == []
