"""Labels of the training split that are replaced by another class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import small_trial
from trainables import load_task, run_experiment
from trainables.tasks import TaskData


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 0.9), seed=st.integers(0, 1000), fraction=st.sampled_from([0.0, 0.2]))
def test_exactly_the_share_of_the_training_labels_becomes_another_class(
    share: float, seed: int, fraction: float
) -> None:
    data = load_task("digits")
    clean, noisy = data.split(fraction, seed), data.split(fraction, seed, label_noise=share)
    changed = clean.train.labels != noisy.train.labels
    assert int(changed.sum()) == round(share * len(changed))
    assert torch.equal(clean.train.inputs, noisy.train.inputs)
    assert 0 <= noisy.train.labels.min() <= noisy.train.labels.max() < 10
    assert torch.equal(clean.held_out.labels, noisy.held_out.labels)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    again = data.split(fraction, seed, label_noise=share)
    assert torch.equal(noisy.train.labels, again.train.labels)


def test_every_other_class_is_as_likely_and_another_seed_changes_other_labels(digits: TaskData) -> None:
    clean = digits.split(0.0, 0).train.labels.numpy()
    steps = np.concatenate(
        [(digits.split(0.0, seed, label_noise=0.9).train.labels.numpy() - clean) % 10 for seed in range(40)]
    )
    counts = np.bincount(steps[steps > 0], minlength=10)[1:]
    # About 5,750 each; five standard deviations of a binomial number.
    expected = counts.sum() / 9
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    first, second = (digits.split(0.0, seed, label_noise=0.1).train.labels.numpy() != clean for seed in (0, 1))
    assert (first & second).sum() < first.sum() / 2


def test_the_data_itself_stays_as_it_was(digits: TaskData) -> None:
    before = digits.digest()
    digits.split(0.0, 0, label_noise=0.5)
    assert digits.digest() == before


def test_a_network_trained_on_noisy_labels_has_a_higher_loss_and_answers_the_true_ones(digits: TaskData) -> None:
    clean, noisy = (
        run_experiment(small_trial(training={"epochs": 20, "label_noise": share}), digits).measurements
        for share in (0.0, 0.3)
    )
    # 30 % of the labels are wrong at random: no network that answers the true class gets below
    # −.7·ln .7 − .3·ln(.3/9) nats.
    assert (noisy["train_loss"] > 1.2).all()
    assert (clean["train_loss"] < 1.0).all()
    assert (noisy["val_accuracy"] > 0.7).all()


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_label_noise_is_part_of_a_trials_key_where_there_is_some(share: float) -> None:
    plain, noisy = small_trial(), small_trial(training={"label_noise": share})
    assert (plain.key("0" * 64) == noisy.key("0" * 64)) == (share == 0)
