"""A search on a real Ray, two trials at a time: the same seed gives the same search, killed or not."""

import os
import signal
from pathlib import Path

import pytest

from study.record.reader import RecordReader
from study.record.stores import Stores
from tests.study.commands import Command

pytestmark = pytest.mark.services

SEARCH = """
question: The same again?
task: digits
trials: 10
replicates: 1
sampler: {name: tpe, n_startup_trials: 2}
space:
  width: {low: 8, high: 64}
  hidden_layers: [1, 2]
  aux_weight: {low: 0.1, high: 20}
  target_depth: any
training: {epochs: 8}
rlct: {draws: 30, chains: 2, batch_size: 32}
observer: {epochs: 0}
"""


def search(folder: Path, dies_at: str | None = None) -> dict[int | None, tuple[str, float]]:
    """Run the study to its end, if need be by a second driver; return each trial's key and rlct by its place."""
    folder.mkdir()
    (folder / "again.yaml").write_text(SEARCH)
    arguments = (folder, "study.run", "again.yaml", "--concurrent", "2")
    if dies_at is not None:
        with Command.start(*arguments) as command:
            command.wait_for(dies_at)
            os.killpg(command.process.pid, signal.SIGKILL)
            assert command.end() == -signal.SIGKILL
    with Command.start(*arguments) as command:
        assert command.end(300) == 0, command.text
    finished = RecordReader(Stores.under(folder / "runs"), "again").finished()
    return {trial.place: (key, trial.metrics["rlct"]) for key, trial in finished.items()}


def test_the_same_seed_and_number_of_workers_give_the_same_search_also_after_a_kill(tmp_path: Path) -> None:
    undisturbed = search(tmp_path / "undisturbed")
    assert set(undisturbed) == set(range(10))
    assert search(tmp_path / "killed", dies_at="[4/10") == undisturbed
