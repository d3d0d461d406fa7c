"""A study of trials so short that several run in one task of Ray, interrupted in the middle of a task."""

import signal
from pathlib import Path

import pytest

from study.record.stores import Stores
from tests.services.same_record import Place, differences
from tests.study.commands import Command

pytestmark = pytest.mark.services

TRIALS = 60
PACKED = f"""
question: Does it go on in the middle of a task?
task: digits
replicates: 1
sampler: grid
space: {{hidden_layers: 1, width: 8, aux_weight: {[*range(TRIALS)]}, target_depth: 1}}
training: {{epochs: 1}}
rlct: {{draws: 8, chains: 2, batch_size: 32}}
observer: {{epochs: 0}}
"""


def start(folder: Path) -> Command:
    folder.mkdir(exist_ok=True)
    (folder / "packed.yaml").write_text(PACKED)
    return Command.start(folder, "study.run", "packed.yaml", "--store", "store")


def place(folder: Path) -> Place:
    stores = Stores.under(folder / "store")
    return Place(stores, stores.root / "mlflow.db")


def test_a_study_that_is_interrupted_in_the_middle_of_a_task_ends_with_the_record_of_the_undisturbed_one(
    tmp_path: Path,
) -> None:
    with start(tmp_path / "undisturbed") as command:
        assert command.end() == 0, command.text
    ended = 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        with start(tmp_path / "disturbed") as command:
            command.wait_for(f"[12/{TRIALS - ended},")
            command.process.send_signal(number)
            assert command.end() == code, command.text
            lines = [line for line in command.printed.splitlines() if line.startswith("[")]
            ended += int(lines[-1].partition("/")[0][1:])
    with start(tmp_path / "disturbed") as command:
        assert command.end() == 0, command.text
        assert f"{ended} of {TRIALS} trials are finished" in command.text
    assert differences(place(tmp_path / "disturbed"), place(tmp_path / "undisturbed"), "packed") == []
