import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import small_trial
from trainables import run_experiment
from trainables.cost import seconds_per_work, work
from trainables.experiment import StoppedEarly
from trainables.measures import epoch_measures
from trainables.outcomes import STATUSES, worst_status
from trainables.tasks import TaskData


def test_training_learns_the_digits(digits: TaskData) -> None:
    result = run_experiment(small_trial(width=32, training={"epochs": 30}), digits)
    assert result.status == "ok"
    assert result.history["train_loss"][-1].max() < result.history["train_loss"][0].min()
    # Logistic regression reaches 0.95 on these digits.
    assert result.measurements["val_accuracy"].min() > 0.93
    assert result.measurements["test_accuracy"].min() > 0.93


def test_every_epoch_of_every_replicate_is_in_the_history(digits: TaskData) -> None:
    epochs: list[int] = []
    draws: list[int] = []
    config = small_trial(aux_weight=1.0, training={"epochs": 3})
    result = run_experiment(config, digits, on_epoch=lambda epoch, _: epochs.append(epoch), on_draw=draws.append)
    assert epochs == [1, 2, 3]
    assert draws == list(range(1, config.rlct.draws + 1))
    names = [name for measure in epoch_measures() for name in measure.names(config.layers)]
    assert {name: values.shape for name, values in result.history.items()} == dict.fromkeys(names, (3, 2))
    for name in names:
        np.testing.assert_array_equal(result.history[name][-1], result.measurements[name])


def test_without_a_validation_split_there_is_no_validation_accuracy(digits: TaskData) -> None:
    result = run_experiment(small_trial(aux_weight=1.0, training={"validation_fraction": 0.0}), digits)
    assert np.isnan(result.measurements["val_accuracy"]).all()
    assert np.isfinite(result.measurements["test_accuracy"]).all()
    assert np.isfinite(result.measurements["self_model_r2"]).all()


def test_a_network_no_better_than_chance_is_collapsed_not_simple(digits: TaskData) -> None:
    # A tiny learning rate: after one epoch the network still guesses.
    result = run_experiment(small_trial(training={"epochs": 1, "learning_rate": 1e-9}), digits)
    assert result.statuses == ("collapsed", "collapsed")
    assert result.status == "collapsed"


def test_a_network_that_learned_little_of_its_task_is_impaired(digits: TaskData) -> None:
    # Better than chance, .10 + .05, and less than a third of the way from chance to the baseline's .967.
    result = run_experiment(small_trial(training={"epochs": 2, "learning_rate": 0.01}), digits)
    accuracy = result.measurements["val_accuracy"]
    assert ((accuracy > 0.16) & (accuracy < 0.38)).all(), accuracy
    assert result.statuses == ("impaired", "impaired")
    better = run_experiment(small_trial(training={"epochs": 20}), digits)
    assert better.status == "ok"


def test_a_loss_that_is_not_finite_is_diverged(digits: TaskData) -> None:
    result = run_experiment(small_trial(aux_weight=100.0, training={"learning_rate": 1e6}), digits)
    assert result.status == "diverged"
    assert result.rlct.verdict == "diverged"
    not_finite = ~np.isfinite(result.measurements["train_loss"])
    assert not_finite.any()
    assert not np.isfinite(result.measurements["rlct"][not_finite]).any()


def test_a_finite_loss_far_above_guessing_is_diverged_however_many_it_gets_right(digits: TaskData) -> None:
    # Weights that have grown without bound: the network classifies well, but is very confident where it is wrong.
    result = run_experiment(small_trial(width=32, training={"learning_rate": 30.0, "epochs": 1}), digits)
    losses = result.measurements["train_loss"]
    assert np.isfinite(losses).all()
    assert (losses > 2 * np.log(10)).all()
    assert result.statuses == ("diverged", "diverged")


def test_a_trials_status_is_the_worst_of_its_replicates_and_only_ok_is_usable() -> None:
    assert list(STATUSES) == ["ok", "not_reached", "stopped_early", "impaired", "collapsed", "diverged"]
    assert worst_status(["ok", "collapsed", "not_reached"]) == "collapsed"
    assert [status.name for status in STATUSES.values() if status.usable] == ["ok"]
    assert all(text.endswith(".") for status in STATUSES.values() for text in (status.meaning, status.why))


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_trial_ends_where_it_is_stopped_with_the_epochs_until_then(at: int, digits: TaskData) -> None:
    config = small_trial(training={"epochs": 5})
    draws: list[int] = []
    with pytest.raises(StoppedEarly) as stopped:
        run_experiment(config, digits, on_epoch=lambda epoch, _: epoch == at, on_draw=draws.append)
    assert draws == [], "its rlct is not estimated"
    whole = run_experiment(config, digits).history
    assert stopped.value.history.keys() == whole.keys()
    for name, values in stopped.value.history.items():
        np.testing.assert_array_equal(values, whole[name][:at])
    assert stopped.value.seconds["training"] > 0
    assert stopped.value.seconds["rlct"] == stopped.value.seconds["observer"] == 0


def test_data_of_another_task_is_refused(digits: TaskData) -> None:
    other = replace(digits, task="other")
    with pytest.raises(ValueError, match="'digits', the data's 'other'"):
        run_experiment(small_trial(), other)


def test_a_fixed_order_replays_the_first_epoch(digits: TaskData) -> None:
    once = run_experiment(small_trial(training={"shuffle": "once"}), digits)
    each = run_experiment(small_trial(training={"shuffle": "each_epoch"}), digits)
    np.testing.assert_array_equal(once.history["train_loss"][0], each.history["train_loss"][0])
    assert (once.history["train_loss"][1] != each.history["train_loss"][1]).all()


def test_work_grows_with_everything_that_takes_time(digits: TaskData) -> None:
    base = work(small_trial(), digits.shape)
    for larger in (
        small_trial(width=64),
        small_trial(hidden_layers=3),
        small_trial(aux_weight=1.0),
        small_trial(seeds=(0, 1, 2)),
        small_trial(training={"epochs": 5}),
        small_trial(rlct={"draws": 50}),
        small_trial(rlct={"chains": 4}),
        small_trial(observer={"epochs": 3}),
    ):
        assert work(larger, digits.shape) > base


def test_the_timed_piece_gives_a_positive_finite_rate(digits: TaskData) -> None:
    rate = seconds_per_work(small_trial(), digits)
    assert math.isfinite(rate)
    assert rate > 0


def test_each_replicate_stops_where_its_loss_has_come_down_while_the_others_train_on(digits: TaskData) -> None:
    trial = small_trial(width=16, seeds=(0, 1, 2), training={"epochs": 60, "until_loss": 0.5})
    result = run_experiment(trial, digits)
    losses = result.history["train_loss"]
    epochs = len(losses)
    assert epochs < 60
    stopped_at = (losses <= 0.5).argmax(axis=0)
    assert (losses[-1] <= 0.5).all()
    assert stopped_at.max() == epochs - 1
    assert stopped_at.min() < epochs - 1
    for index, seed in enumerate(trial.seeds):
        # Trained alone for the same number of epochs, it is the same network.
        training = trial.training.model_copy(update={"epochs": int(stopped_at[index]) + 1, "until_loss": None})
        alone = run_experiment(trial.model_copy(update={"seeds": (seed,), "training": training}), digits)
        for name, values in alone.network.named_parameters():
            torch.testing.assert_close(result.network.get_parameter(name)[index], values[0], rtol=1e-3, atol=1e-5)
        assert result.measurements["val_accuracy"][index] == alone.measurements["val_accuracy"][0]


def test_a_loss_that_is_not_reached_is_trained_for_until_the_last_epoch(digits: TaskData) -> None:
    result = run_experiment(small_trial(width=16, training={"epochs": 5, "until_loss": 1e-6}), digits)
    assert len(result.history["train_loss"]) == 5
    assert result.statuses == ("not_reached", "not_reached")
