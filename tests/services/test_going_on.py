"""A trial whose worker or driver is killed goes on from its snapshot, and ends as an undisturbed one does."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from study.record.outcome import Outcome
from study.record.reader import RecordReader
from study.record.stores import Stores
from tests.study.commands import Command

pytestmark = pytest.mark.services

# One trial of some seconds, with rlct chains and an observer.
LONG = """
question: Does it go on?
task: digits
replicates: 2
sampler: grid
space: {hidden_layers: 1, width: 64, aux_weight: 5, target_depth: 1}
training: {epochs: 150}
rlct: {draws: 600, chains: 2, batch_size: 64}
"""
OPTIONS = ("--concurrent", "1", "--snapshot-interval", "0.3")


def start(folder: Path, *options: str) -> Command:
    folder.mkdir(exist_ok=True)
    (folder / "long.yaml").write_text(LONG)
    return Command.start(folder, "study.run", "long.yaml", *options)


def outcome(folder: Path) -> Outcome:
    """What the only finished trial has come to."""
    record = RecordReader(Stores.under(folder / "runs"), "long")
    (trial,) = record.finished().values()
    found = record.outcome(trial)
    assert found is not None
    return found


def snapshots(folder: Path) -> list[Path]:
    return [file for file in (folder / "runs" / "ray" / "long" / "snapshots").rglob("*") if file.is_file()]


def wait_for_snapshot(folder: Path, command: Command) -> None:
    """Return when the command has taken a snapshot."""
    began, newest = time.time(), 0.0
    while newest <= began:
        assert command.process.poll() is None, command.text
        time.sleep(0.05)
        # The file may be replaced at this moment.
        with contextlib.suppress(FileNotFoundError):
            newest = max((file.stat().st_mtime for file in snapshots(folder)), default=0.0)


def worker_of(command: Command) -> psutil.Process:
    """The process of Ray in which the trial runs."""
    (worker,) = [child for child in command.children() if "train" in " ".join(child.cmdline())]
    return worker


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("undisturbed")
    with start(folder, "--runner", "local") as command:
        assert command.end() == 0, command.text
    return outcome(folder)


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_trial_whose_driver_was_killed_goes_on_with_the_next_one(
    runner: str, undisturbed: Outcome, tmp_path: Path
) -> None:
    options = ("--runner", runner, *(OPTIONS if runner == "ray" else OPTIONS[2:]))
    for _ in range(2):
        with start(tmp_path, *options) as command:
            wait_for_snapshot(tmp_path, command)
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()
    with start(tmp_path, *options) as command:
        assert command.end() == 0, command.text
    assert outcome(tmp_path).measurements == undisturbed.measurements
    assert snapshots(tmp_path) == []


def test_a_trial_whose_worker_was_killed_goes_on_in_another_one(undisturbed: Outcome, tmp_path: Path) -> None:
    with start(tmp_path, *OPTIONS) as command:
        wait_for_snapshot(tmp_path, command)
        worker_of(command).kill()
        assert command.end() == 0, command.text
    assert outcome(tmp_path).measurements == undisturbed.measurements
    assert snapshots(tmp_path) == []


def test_a_trial_that_may_not_go_on_elsewhere_fails_when_its_worker_is_killed(tmp_path: Path) -> None:
    with start(tmp_path, *OPTIONS, "--restarts", "0") as command:
        wait_for_snapshot(tmp_path, command)
        worker_of(command).kill()
        assert command.end() == 1, command.text
    assert "1 trial(s) failed; the same command tries them again" in command.text
