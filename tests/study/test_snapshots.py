"""Snapshots of running trials in a folder and in a bucket."""

import logging
from pathlib import Path

import pytest
import torch

from study.commands.run import main
from study.engine.snapshots import SnapshotPlace
from study.record.reader import RecordReader
from study.record.stores import Stores
from tests.study.synthetic import sweep_spec
from trainables.trial import TrialConfig

DIGEST = "0" * 64
STUDY = """
question: Are snapshots left?
task: digits
replicates: 1
sampler: grid
space: {hidden_layers: 1, width: 8, target_depth: 1, aux_weight: WEIGHTS}
training: {epochs: 1}
rlct: {draws: 8, chains: 2, batch_size: 32}
observer: {epochs: 0}
"""
STATE = {"training.weights": torch.arange(6.0)}


@pytest.fixture
def config() -> TrialConfig:
    return next(iter(sweep_spec(weights=(1,)).listed()))


@pytest.fixture(params=["a folder", "a URL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotPlace:
    folder = tmp_path / "snapshots"
    return SnapshotPlace(folder.as_uri() if request.param == "a URL" else str(folder), 60.0)


def test_the_next_worker_has_what_the_last_one_saved_until_the_trial_has_ended(
    place: SnapshotPlace, config: TrialConfig, tmp_path: Path
) -> None:
    with place.file("key", DIGEST) as file:
        assert file.load(config, "cpu") == {}
        file.save(STATE, config, "cpu")
    with place.file("key", DIGEST) as file:
        (loaded,) = file.load(config, "cpu").values()
        assert torch.equal(loaded, STATE["training.weights"])
    with place.file("another", DIGEST) as file:
        assert file.load(config, "cpu") == {}
    place.forget("key")
    place.forget("key")
    with place.file("key", DIGEST) as file:
        assert file.load(config, "cpu") == {}
    assert not [file for file in (tmp_path / "snapshots").rglob("*") if file.is_file()]


def test_the_trials_that_have_snapshots_are_found_among_others(place: SnapshotPlace, config: TrialConfig) -> None:
    assert place.kept_of(["one", "two"]) == []
    for key in ("one", "two"):
        with place.file(key, DIGEST) as file:
            file.save(STATE, config, "cpu")
    assert place.kept_of(["two", "three"]) == ["two"]


@pytest.mark.parametrize("left_to_run", [0, 1])
def test_snapshots_of_a_finished_trial_that_a_killed_driver_left_are_removed_by_the_same_command(
    left_to_run: int, config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.replace("WEIGHTS", "[0]"))
    assert main([str(file), "--runner", "local"]) == 0
    stores = Stores.under(tmp_path / "runs")
    (key,) = RecordReader(stores, "small").finished()
    place = SnapshotPlace(stores.snapshots("small"), 60.0)
    for each in (key, "not-finished"):
        with place.file(each, DIGEST) as snapshots:
            snapshots.save(STATE, config, "cpu")
    file.write_text(STUDY.replace("WEIGHTS", "[0, 1]" if left_to_run else "[0]"))
    assert main([str(file), "--runner", "local"]) == 0
    assert place.kept_of([key, "not-finished"]) == ["not-finished"]


def test_a_place_that_cannot_be_reached_is_a_warning_and_the_trial_starts_from_the_beginning(
    config: TrialConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    place = SnapshotPlace((tmp_path / "file").as_uri(), 60.0)
    with caplog.at_level(logging.WARNING), place.file("key", DIGEST) as file:
        assert file.load(config, "cpu") == {}
        file.save(STATE, config, "cpu")
        assert len(file.load(config, "cpu")) == 1, "this worker has it"
    assert "The snapshots of trial key in file:///" in caplog.text
