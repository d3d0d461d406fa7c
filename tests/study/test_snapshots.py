"""Snapshots of running trials in a folder and in a bucket."""

import logging
from pathlib import Path

import pytest
import torch

from study.engine.snapshots import SnapshotPlace
from tests.study.synthetic import sweep_spec
from trainables.trial import TrialConfig

DIGEST = "0" * 64
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
