import math
from typing import Any

import numpy as np
import pytest

from tests.conftest import small_trial
from tests.trainables.small import contract_trial, small_data
from trainables import TrialConfig
from trainables.cost import WORK_PER_SECOND, seconds_per_work, work, work_of_timing
from trainables.networks import Architecture, get_architecture
from trainables.tasks import DataShape, InputSpec, TaskData, get_task


def test_work_from_stated_sizes_equals_work_from_counted_sizes(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, shape = contract_trial(architecture, observer={"epochs": 2}), small_data(architecture).shape
    stated = work(trial, shape)
    monkeypatch.setattr(type(get_architecture(architecture)), "size", Architecture.size)
    assert work(trial, shape) == stated


def test_work_is_stated_without_building_a_network(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a network is built")

    monkeypatch.setattr(Architecture, "build", refuse)
    assert work(contract_trial(architecture), small_data(architecture).shape) > 0


@pytest.mark.parametrize("task", ["mnist", "digits"])
def test_the_timed_piece_of_a_study_trial_is_about_a_second_of_work(task: str) -> None:
    trial = TrialConfig.from_recipe(task, aux_weight=1.0, network={"width": 256}, seeds=tuple(range(5)))
    shape = get_task(task).shape
    assert work_of_timing(trial, shape) < 3 * WORK_PER_SECOND
    assert work_of_timing(trial, shape) < work(trial, shape) / 20


def test_more_of_a_trial_does_not_take_longer_to_time() -> None:
    base, shape = small_trial(), DataShape(InputSpec((1, 8, 8)), 10, 50_000, 10_000)
    for more in (
        small_trial(seeds=(0, 1, 2)),
        small_trial(training={"epochs": 50}),
        small_trial(rlct={"draws": 1000}),
        small_trial(observer={"epochs": 5}),
    ):
        assert work_of_timing(more, shape) == work_of_timing(base, shape)
    assert work_of_timing(base, shape) < work(base, shape)


def test_a_preconditioned_sampler_is_timed_too(digits: TaskData) -> None:
    trial = small_trial(rlct={"sampler": "rmsprop_sgld", "draws": 40})
    assert seconds_per_work(trial, digits) > 0


@pytest.mark.parametrize("samples", [400, 40_000])
@pytest.mark.parametrize("validation_fraction", [0.0, 0.1])
def test_a_rate_is_timed_on_all_of_small_data_and_on_a_part_of_large(samples: int, validation_fraction: float) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(samples, 1, 8, 8)).astype(np.float32)
    labels = np.arange(samples) % 10
    data = TaskData("digits", 10, inputs, labels, inputs[: samples // 10], labels[: samples // 10])
    trial = small_trial(
        aux_weight=1.0, training={"validation_fraction": validation_fraction, "until_loss": 100.0, "epochs": 50}
    )
    rate = seconds_per_work(trial, data)
    assert math.isfinite(rate)
    assert rate > 0
