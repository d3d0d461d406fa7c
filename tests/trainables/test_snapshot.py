"""A trial that is interrupted goes on from its newest snapshot, and its result is that of an undisturbed one."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import small_trial
from tests.trainables.small import SMALL, contract_trial, small_data
from trainables import ExperimentResult, TrialConfig, run_experiment
from trainables.experiment import StoppedEarly
from trainables.networks import ARCHITECTURES
from trainables.snapshot import NAME, PREVIOUS, SnapshotFile, Snapshots
from trainables.tasks import TASKS, TaskData
from trainables.tasks.digits import Digits

DATA_DIGEST = "digest of the data"


class InterruptionError(Exception):
    """The worker dies."""


@pytest.fixture(autouse=True)
def snapshots_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.snapshot.LARGEST_SHARE", 1e9)


class MirroredDigits(Digits):
    """Digits of which each is mirrored at random in every epoch."""

    augments = True

    def augmentation(self, samples: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(samples, 1, generator=generator)

    def augment(self, inputs: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        return torch.where((changes < 0.5).view(-1, 1, 1, 1), inputs.flip(-1), inputs)


def run(config: TrialConfig, data: TaskData, folder: Path, after: int | None = None, **given: Any) -> ExperimentResult:
    """Run or go on with a trial that takes a snapshot wherever it can; it dies after so many snapshots."""
    taken = 0

    def saved(_: Path) -> None:
        nonlocal taken
        taken += 1
        if taken == after:
            raise InterruptionError

    return run_experiment(config, data, snapshot_file=SnapshotFile(folder, DATA_DIGEST, 0.0, saved), **given)


def interrupted_everywhere(
    config: TrialConfig, data: TaskData, folder: Path, after: int = 2
) -> tuple[ExperimentResult, int]:
    """The result of a trial whose workers each do one batch or two draws (or more) and die; how many have died."""
    # In training, the first snapshot of a worker that goes on has the state that it has just restored.
    for workers in range(1000):
        try:
            return run(config, data, folder, after), workers
        except InterruptionError:
            continue
    raise AssertionError("the trial never ends")


def assert_equal(result: ExperimentResult, expected: ExperimentResult) -> None:
    assert list(result.history) == list(expected.history)
    assert list(result.measurements) == list(expected.measurements)
    for name in expected.history:
        np.testing.assert_array_equal(result.history[name], expected.history[name], err_msg=name)
    for name in expected.measurements:
        np.testing.assert_array_equal(result.measurements[name], expected.measurements[name], err_msg=name)
    weights = result.network.state_dict()
    for name, tensor in expected.network.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    for of_result, of_expected in (
        (result.rlct.trace, expected.rlct.trace),
        (result.rlct.diagnostics, expected.rlct.diagnostics),
    ):
        for name, values in vars(of_expected).items():
            np.testing.assert_array_equal(getattr(of_result, name), values, err_msg=name)
    np.testing.assert_array_equal(result.rlct.per_chain, expected.rlct.per_chain)
    np.testing.assert_array_equal(result.rlct.initial_loss, expected.rlct.initial_loss)
    assert result.statuses == expected.statuses
    assert result.rlct.verdicts == expected.rlct.verdicts


TRIALS: dict[str, dict[str, Any]] = {
    "self-modeling, two layers": {"aux_weight": 1.0, "hidden_layers": 2, "self_model": {"target_depths": (1, 2)}},
    "adam": {"aux_weight": 1.0, "training": {"optimizer": "adam", "learning_rate": 1e-3}},
    "no momentum": {"training": {"momentum": 0.0, "nesterov": False}},
    "the same order in all epochs": {"training": {"shuffle": "once", "epochs": 3}},
    "the loss of one replicate comes down first": {"training": {"until_loss": 2.1, "epochs": 5, "learning_rate": 0.1}},
    "noise as targets": {"aux_weight": 1.0, "self_model": {"control": "noise_targets"}},
    "shuffled targets": {"aux_weight": 1.0, "self_model": {"control": "shuffled_targets"}},
    "targets from a random network": {"aux_weight": 1.0, "self_model": {"control": "random_network"}},
    "dropout": {"aux_weight": 0.3, "self_model": {"control": "dropout"}},
    "weight decay": {"aux_weight": 1e-3, "self_model": {"control": "weight_decay"}},
    "preconditioned sampler": {"rlct": {"sampler": "rmsprop_sgld"}},
    "no validation split, no observer": {"training": {"validation_fraction": 0.0}, "observer": {"epochs": 0}},
    "three replicates": {"seeds": (5, 0, 2), "observer": {"epochs": 2}},
}


def few(data: TaskData) -> TaskData:
    """Enough samples for a few batches in each epoch."""
    return replace(
        data,
        train_inputs=data.train_inputs[:200],
        train_labels=data.train_labels[:200],
        test_inputs=data.test_inputs[:60],
        test_labels=data.test_labels[:60],
    )


@pytest.mark.parametrize("name", TRIALS)
def test_a_trial_that_dies_after_every_batch_has_the_result_of_an_undisturbed_one(
    name: str, digits: TaskData, tmp_path: Path
) -> None:
    fields = TRIALS[name]
    # The last batch of an epoch is smaller than the others.
    trial = small_trial(**fields | {"training": {"batch_size": 64} | fields.get("training", {})})
    data = few(digits)
    result, deaths = interrupted_everywhere(trial, data, tmp_path / "trial")
    expected = run_experiment(trial, data)
    assert deaths >= 2 * 3 + trial.rlct.draws // 2
    assert_equal(result, expected)


def test_a_trial_with_changed_images_goes_on_with_the_same_changes(
    digits: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "digits", MirroredDigits())
    trial = small_trial(training={"augment": True, "batch_size": 64}, observer={"epochs": 0})
    plain = trial.model_copy(update={"training": trial.training.model_copy(update={"augment": False})})
    data, expected = few(digits), run_experiment(trial, few(digits))
    assert (run_experiment(plain, data).history["train_loss"] != expected.history["train_loss"]).all()
    assert_equal(interrupted_everywhere(trial, data, tmp_path / "trial")[0], expected)


def test_a_network_of_every_architecture_goes_on_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    training = {"epochs": 2} | ({"momentum": 0.0, "nesterov": False} if architecture == "embedding_bag" else {})
    trial = contract_trial(architecture, training=training, observer={"epochs": 1, "width": 8})
    data = small_data(architecture)
    # Chains of resnet18 take seconds for a draw.
    result, deaths = interrupted_everywhere(
        trial, data, tmp_path / "trial", after=4 if architecture == "resnet18" else 2
    )
    assert deaths >= 2
    assert_equal(result, run_experiment(trial, data))


def test_every_architecture_is_interrupted_here() -> None:
    assert set(SMALL) == set(ARCHITECTURES)


@pytest.mark.parametrize("drawn", range(1, 9))
@pytest.mark.parametrize("architecture", ["mlp", "convnet"])
def test_after_any_draw_a_trial_tells_all_epochs_again_and_takes_the_draws_that_are_left(
    architecture: str, drawn: int, tmp_path: Path
) -> None:
    trial, data = contract_trial(architecture, training={"epochs": 2}), small_data(architecture)
    told: list[int] = []
    batches = 2 * 3
    with pytest.raises(InterruptionError):
        run(trial, data, tmp_path, after=batches + drawn)
    draws: list[int] = []
    result = run(trial, data, tmp_path, on_epoch=lambda epoch, _: told.append(epoch), on_draw=draws.append)
    assert told == [1, 2]
    assert draws == list(range(drawn + 1, trial.rlct.draws + 1))
    assert_equal(result, run_experiment(trial, data))


def test_the_seconds_of_all_workers_are_added_up(digits: TaskData, tmp_path: Path) -> None:
    trial, data = small_trial(training={"batch_size": 64}), few(digits)

    def slow(_: int, __: Any) -> None:
        time.sleep(0.2)

    with pytest.raises(InterruptionError):
        run(trial, data, tmp_path, after=6 + 3, on_epoch=slow)
    # Training is over, and this worker only reads its result.
    assert 0.4 <= run(trial, data, tmp_path).seconds["training"] < 60


def no_longer_whole(folder: Path) -> None:
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[: len(content) // 2])


def one_bit_wrong(folder: Path) -> None:
    content = bytearray((folder / NAME).read_bytes())
    content[-5] ^= 1
    (folder / NAME).write_bytes(content)


def empty(folder: Path) -> None:
    (folder / NAME).write_bytes(b"")


def a_folder(folder: Path) -> None:
    (folder / NAME).unlink()
    (folder / NAME).mkdir()


@pytest.mark.parametrize("damage", [no_longer_whole, one_bit_wrong, empty, a_folder])
@pytest.mark.parametrize("previous", [True, False])
def test_instead_of_a_damaged_snapshot_the_one_before_is_used_or_none(
    damage: Any, previous: bool, digits: TaskData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial, data = small_trial(training={"batch_size": 64}, observer={"epochs": 0}), few(digits)
    with pytest.raises(InterruptionError):
        run(trial, data, tmp_path, after=6 + 3)
    damage(tmp_path)
    if not previous:
        (tmp_path / PREVIOUS).unlink()
    draws: list[int] = []
    result = run_experiment(
        trial, data, on_draw=draws.append, snapshot_file=SnapshotFile(tmp_path, DATA_DIGEST, interval=1e9)
    )
    assert draws[0] == (3 if previous else 1)
    assert f"The snapshot {tmp_path / NAME} is not used" in caplog.text
    assert_equal(result, run_experiment(trial, data))


def test_a_trial_that_goes_on_is_stopped_where_it_would_have_been(digits: TaskData, tmp_path: Path) -> None:
    trial, data = small_trial(training={"batch_size": 64, "epochs": 4}, observer={"epochs": 0}), few(digits)

    def low_enough(epoch: int, measures: dict[str, np.ndarray]) -> bool:
        return bool(measures["train_loss"].mean() < limit)

    limit = float(run_experiment(trial, data).history["train_loss"][2].mean()) * (1 + 1e-6)
    with pytest.raises(StoppedEarly) as undisturbed:
        run_experiment(trial, data, on_epoch=low_enough)
    for workers in range(100):
        try:
            run(trial, data, tmp_path, after=2, on_epoch=low_enough)
        except InterruptionError:
            continue
        except StoppedEarly as stopped:
            assert workers > 2
            for name, values in undisturbed.value.history.items():
                assert len(values) == 3
                np.testing.assert_array_equal(stopped.history[name], values)
            return
    pytest.fail("it was not stopped")


@pytest.mark.parametrize("other", ["trial", "data", "code", "format"])
def test_a_snapshot_of_something_else_is_not_used_and_the_reason_is_said(
    other: str,
    digits: TaskData,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial, data = small_trial(training={"batch_size": 64}, observer={"epochs": 0}), few(digits)
    with pytest.raises(InterruptionError):
        run(trial, data, tmp_path, after=5)
    if other == "trial":
        trial = small_trial(training={"batch_size": 64}, observer={"epochs": 0}, seeds=(0, 2))
    elif other == "code":
        monkeypatch.setattr("trainables.snapshot.package_digest", lambda: "0" * 64)
    elif other == "format":
        monkeypatch.setattr("trainables.snapshot.FORMAT", 0)
    digest = "another" if other == "data" else DATA_DIGEST
    result = run_experiment(trial, data, snapshot_file=SnapshotFile(tmp_path, digest, interval=1e9))
    assert f"it belongs to another {other}" in caplog.text
    assert_equal(result, run_experiment(trial, data))


def test_a_trial_whose_snapshots_cannot_be_written_goes_on(
    digits: TaskData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    trial, data = small_trial(observer={"epochs": 0}), few(digits)
    assert_equal(run(trial, data, tmp_path / "file"), run_experiment(trial, data))
    assert "No snapshot could be written" in caplog.text


def test_snapshots_are_taken_at_the_interval_and_removed_with_their_folder(digits: TaskData, tmp_path: Path) -> None:
    trial, data, folder = small_trial(), few(digits), tmp_path / "trial"
    rare = SnapshotFile(folder, DATA_DIGEST, interval=1e9)
    run_experiment(trial, data, snapshot_file=rare)
    assert not folder.exists()
    run(trial, data, folder)
    assert sorted(path.name for path in folder.iterdir()) == [NAME, PREVIOUS]
    rare.remove()
    assert not folder.exists()
    rare.remove()


@pytest.mark.parametrize("interval", [0.0, 1.5])
def test_slow_snapshots_take_two_percent_of_the_time_at_most(
    interval: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("trainables.snapshot.time.monotonic", lambda: now)

    def slow(_: Path) -> None:
        nonlocal now
        now += 0.01
        moments.append(now)

    moments: list[float] = []
    monkeypatch.setattr("trainables.snapshot.LARGEST_SHARE", 0.02)
    snapshots = Snapshots(small_trial(), "cpu", SnapshotFile(tmp_path, DATA_DIGEST, interval, slow))
    while now < 10:
        snapshots.save_if_due()
        now += 0.001
    assert np.diff(moments).min() > max(interval, 0.5)
    assert np.diff(moments).max() < max(interval, 0.5) + 0.02


KILLED_TRIAL = small_trial(
    aux_weight=1.0,
    self_model={"control": "noise_targets"},
    training={"epochs": 15, "batch_size": 64},
    rlct={"draws": 100},
    observer={"epochs": 5},
)


@pytest.mark.services
@pytest.mark.parametrize("seed", range(2))
def test_a_process_that_is_killed_at_any_moment_several_times_gives_the_same_files(
    seed: int, digits: TaskData, tmp_path: Path
) -> None:
    moments, killed = random.Random(seed), 0
    while killed < 4:
        # Not before the first snapshot: each process does something.
        folder, process = tmp_path / "trial", start_process(tmp_path)
        before = taken(folder)
        while taken(folder) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        killed += 1
    else:
        assert start_process(tmp_path).wait() == 0
    assert killed
    result = json.loads((tmp_path / "result.json").read_text())
    expected = run_experiment(KILLED_TRIAL, digits)
    assert result == plain(expected)


def taken(folder: Path) -> int:
    """A number that changes with each snapshot."""
    try:
        return (folder / NAME).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def start_process(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.trainables.test_snapshot", str(folder)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def plain(result: ExperimentResult) -> dict[str, Any]:
    """All numbers of a result, to the last bit."""
    arrays = result.history | result.measurements | {"losses": result.rlct.trace.loss, "llc": result.rlct.per_chain}
    weights = {name: tensor.numpy() for name, tensor in result.network.state_dict().items()}
    return {name: array.tobytes().hex() for name, array in (arrays | weights).items()}


def main(folder: Path) -> None:
    """Go on with the trial in a process of its own."""
    from trainables import load_task, snapshot

    snapshot.LARGEST_SHARE = 1e9
    file = SnapshotFile(folder / "trial", DATA_DIGEST, interval=0.01)
    result = run_experiment(KILLED_TRIAL, load_task("digits"), snapshot_file=file)
    (folder / "result.json").write_text(json.dumps(plain(result)))
    shutil.rmtree(folder / "trial")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
