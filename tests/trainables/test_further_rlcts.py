"""Further estimates of a trial: at the balanced network, of single layers, and in training."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.conftest import small_trial
from tests.trainables.small import SMALL, contract_trial, small_data
from tests.trainables.test_architectures import build
from trainables import RlctConfig, TrialConfig, run_experiment
from trainables.config import FURTHER_ESTIMATES
from trainables.experiment import ExperimentResult
from trainables.networks import Head, ReplicatedNetwork
from trainables.networks.balance import balanced
from trainables.rlct import estimate_rlct
from trainables.tasks import Split, TaskData

SETTINGS = RlctConfig(step_size=3e-4, localization=30.0, chains=4, draws=400, batch_size=128)


@pytest.fixture(scope="module")
def trained(digits: TaskData) -> tuple[ReplicatedNetwork, Split]:
    config = small_trial(width=16, training={"epochs": 40}, seeds=(0, 1), rlct=SETTINGS.model_dump())
    network = run_experiment(config, digits).network.classifier()
    return network, digits.split(config.training.validation_fraction, config.split_seed).train


def scaled(network: ReplicatedNetwork, factor: float) -> ReplicatedNetwork:
    """The same function with the hidden weights times a factor, and the head's divided by it."""
    changed = network.repeated(1)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if name.startswith("hidden"):
                parameter.mul_(factor)
            elif name == "head.weight":
                parameter.div_(factor)
    return changed


def test_the_rlct_of_the_balanced_network_does_not_depend_on_the_scales_of_units_and_the_published_one_does(
    trained: tuple[ReplicatedNetwork, Split],
) -> None:
    network, split = trained
    published, invariant = [], []
    for factor in (0.25, 1.0, 4.0):
        other = scaled(network, factor)
        torch.testing.assert_close(other(split.inputs[None]).logits, network(split.inputs[None]).logits)
        even = balanced(other)
        assert even is not None
        published.append(estimate_rlct(other, split, SETTINGS, seed=0).estimate)
        invariant.append(estimate_rlct(even, split, SETTINGS, seed=0).estimate)
    assert (np.max(published, axis=0) > 1.5 * np.min(published, axis=0)).all()
    np.testing.assert_allclose(invariant[0], invariant[1], rtol=0.02)
    np.testing.assert_allclose(invariant[2], invariant[1], rtol=0.02)


@pytest.fixture(scope="module")
def trial() -> TrialConfig:
    further = {"with_balanced": True, "with_layers": True, "with_epochs": "20+40"}
    return small_trial(
        width=16, hidden_layers=2, training={"epochs": 40}, seeds=(0, 1), rlct=SETTINGS.model_dump() | further
    )


@pytest.fixture(scope="module")
def result(trial: TrialConfig, digits: TaskData) -> ExperimentResult:
    return run_experiment(trial, digits)


def test_a_trial_has_every_further_estimate_it_asks_for(result: ExperimentResult) -> None:
    assert list(result.further_rlcts) == ["rlct_balanced", "rlct_of_hidden1", "rlct_of_hidden2", "rlct_of_head"]
    for name, estimate in result.further_rlcts.items():
        np.testing.assert_array_equal(result.measurements[name], estimate.usable)
        assert (result.measurements[f"{name}_chain_se"] > 0).all()
    in_training = result.history["rlct_in_training"]
    assert np.isfinite(in_training).any(axis=1).nonzero()[0].tolist() == [19, 39]
    # After the last epoch it is the trial's own estimate: the same weights, batches and noise.
    np.testing.assert_allclose(in_training[-1], result.rlct.estimate, rtol=1e-5)


def test_a_layer_has_less_than_the_whole_network(result: ExperimentResult) -> None:
    for name, estimate in result.further_rlcts.items():
        if name.startswith("rlct_of_"):
            assert (estimate.estimate > 0).all()
            assert (estimate.estimate < result.rlct.estimate).all(), name


def test_estimates_in_training_do_not_change_the_training(
    trial: TrialConfig, result: ExperimentResult, digits: TaskData
) -> None:
    plain = run_experiment(trial.model_copy(update={"rlct": trial.rlct.of_one_estimate()}), digits)
    np.testing.assert_array_equal(plain.measurements["val_accuracy"], result.measurements["val_accuracy"])
    np.testing.assert_array_equal(plain.rlct.estimate, result.rlct.estimate)
    assert np.isnan(plain.measurements["rlct_balanced"]).all()
    assert plain.further_rlcts == {}


def test_a_value_whose_verdict_is_not_usable_is_absent(digits: TaskData) -> None:
    diverging = {"step_size": 1.0, "with_balanced": True, "with_epochs": "1"}
    result = run_experiment(small_trial(rlct=diverging), digits)
    assert result.further_rlcts["rlct_balanced"].verdicts == ("diverged", "diverged")
    assert np.isnan(result.measurements["rlct_balanced"]).all()
    assert np.isnan(result.history["rlct_in_training"]).all()


def test_a_network_without_free_scales_is_refused_and_told_so() -> None:
    for network in ({"activation": "tanh"}, {"activation": "gelu"}):
        with pytest.raises(ValidationError, match=r"rlct\.with_balanced: a mlp with .* has no balanced network"):
            TrialConfig.from_recipe("digits", network=network, rlct={"with_balanced": True})
    with pytest.raises(ValidationError, match=r"rlct\.with_balanced: a resnet18"):
        TrialConfig.from_recipe("cifar10", rlct={"with_balanced": True})


def test_an_epoch_after_the_last_one_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"rlct\.with_epochs 1\+3: the training has 2 epochs"):
        small_trial(rlct={"with_epochs": "3+1"})


@pytest.mark.parametrize("epochs", ["0+1", "-1", "1,2", "all", "", [1, "x"], 1.5])
def test_what_is_no_epoch_is_refused(epochs: object) -> None:
    with pytest.raises(ValidationError, match="needs epochs, counted from 1"):
        RlctConfig(with_epochs=epochs)


def test_epochs_may_be_given_as_a_list_and_are_put_in_order() -> None:
    assert RlctConfig(with_epochs=[40, 2, 2]).epochs == (2, 40)
    assert RlctConfig(with_epochs=3).with_epochs == "3"
    assert RlctConfig(with_epochs=[]).epochs == RlctConfig().epochs == ()


def test_further_estimates_are_part_of_a_trials_key_and_not_of_the_key_of_the_settings() -> None:
    plain, more = small_trial(), small_trial(rlct={"with_balanced": True})
    assert plain.key("data") != more.key("data")
    assert plain.rlct.key() == more.rlct.key()
    assert more.rlct.of_one_estimate() == plain.rlct
    assert set(FURTHER_ESTIMATES) < set(RlctConfig.model_fields)


def test_estimates_in_training_and_an_end_at_a_loss_are_refused_together() -> None:
    with pytest.raises(ValidationError, match=r"rlct\.with_epochs: with training\.until_loss"):
        small_trial(rlct={"with_epochs": "1"}, training={"until_loss": 0.5})


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_the_layers_of_a_network_share_no_parameter_and_have_all_but_a_transformers_ends(architecture: str) -> None:
    network = build(architecture, Head(3))
    parts = [name for names in network.layer_parameters().values() for name in names]
    assert len(parts) == len(set(parts))
    left_out = {name for name, _ in network.named_parameters()} - set(parts)
    ends = {"tokens.weight", "positions.weight", "norm.weight", "norm.bias"}
    assert left_out == (ends if architecture == "transformer" else set())


@pytest.mark.parametrize("architecture", ["convnet", "embedding_bag", "transformer"])
def test_each_layer_of_every_stackable_architecture_is_estimated(architecture: str) -> None:
    trial = contract_trial(architecture)
    trial = trial.model_copy(update={"rlct": trial.rlct.model_copy(update={"with_layers": True, "draws": 8})})
    result = run_experiment(trial, small_data(architecture))
    layers = [*(layer.name for layer in trial.layers), "head"]
    assert list(result.further_rlcts) == [f"rlct_of_{layer}" for layer in layers]
    assert all(np.isfinite(estimate.estimate).all() for estimate in result.further_rlcts.values())
