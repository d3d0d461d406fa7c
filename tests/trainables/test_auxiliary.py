"""The contract of auxiliary tasks, tested on each one in AUXILIARY_TASKS, and what each one does."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainables.small import contract_trial, small_data, train_alone
from trainables import SelfModelConfig, TrialConfig
from trainables.auxiliary import (
    AUXILIARY_TASKS,
    ActivationTargets,
    AuxiliaryTask,
    Setting,
    get_auxiliary_task,
)
from trainables.errors import ConfigError
from trainables.networks import Activations, ReplicatedNetwork, get_architecture
from trainables.tasks import TaskData
from trainables.training import loss_per_replicate

# For each task a strength at which it has an effect; add a line for a new task.
STRENGTH = {
    "none": 2.0,
    "weight_decay": 0.1,
    "dropout": 0.5,
    "activation_penalty": 2.0,
    "extra_outputs": 0.0,
    "noise_targets": 2.0,
    "shuffled_targets": 2.0,
    "random_network": 2.0,
}


def trial_with(name: str, **changes: Any) -> TrialConfig:
    return contract_trial("mlp", aux_weight=STRENGTH[name], self_model={"control": name}, **changes)


@pytest.fixture(params=AUXILIARY_TASKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data() -> TaskData:
    return small_data("mlp")


def make(name: str, seeds: tuple[int, ...] = (0, 1)) -> tuple[AuxiliaryTask, ReplicatedNetwork, Tensor]:
    """An auxiliary task, a network trained with it, and a separate batch for each replicate."""
    trial, data = trial_with(name, seeds=seeds), small_data("mlp")
    setting = Setting(trial.network, data.shape.inputs, seeds, "cpu")
    auxiliary = get_auxiliary_task(name)(ActivationTargets(trial.self_model, trial.layers), setting)
    network = get_architecture("mlp").build(
        trial.network, data.shape.inputs, auxiliary.head(data.classes), seeds, auxiliary.dropout
    )
    inputs = torch.from_numpy(data.train_inputs[:64])
    return auxiliary, network, inputs.view(2, 32, *inputs.shape[1:])[: len(seeds)]


def target_of(auxiliary: AuxiliaryTask, activations: Activations, inputs: Tensor) -> Tensor:
    """The targets of the prediction for a batch, (R, B, N)."""
    target = auxiliary.target(activations, inputs)
    assert target is not None
    return target


def test_every_auxiliary_task_has_a_strength_in_these_tests() -> None:
    assert set(STRENGTH) == set(AUXILIARY_TASKS)


def test_every_auxiliary_task_trains_and_changes_the_training(name: str, data: TaskData) -> None:
    _, measured = train_alone(trial_with(name), data)
    _, baseline = train_alone(contract_trial("mlp", aux_weight=0), data)
    assert np.isfinite(measured["train_loss"]).all()
    changes = not np.allclose(measured["weight_std_hidden1"], baseline["weight_std_hidden1"], rtol=1e-6)
    # More outputs alone do not change the classification network.
    assert changes is (name != "extra_outputs")


def test_networks_under_an_auxiliary_task_trained_together_equal_those_trained_alone(name: str, data: TaskData) -> None:
    trial = trial_with(name)
    all_at_once, _ = train_alone(trial, data)
    for index, seed in enumerate(trial.seeds):
        alone, _ = train_alone(trial.model_copy(update={"seeds": (seed,)}), data)
        for parameter, values in alone.named_parameters():
            torch.testing.assert_close(all_at_once.get_parameter(parameter)[index], values[0], rtol=1e-4, atol=1e-6)


def test_every_auxiliary_task_starts_from_the_class_weights_of_the_baseline(name: str) -> None:
    _, network, _ = make(name)
    _, baseline, _ = make("dropout")
    expected = baseline.classifier().state_dict()
    for parameter, values in network.classifier().state_dict().items():
        assert torch.equal(values, expected[parameter])


def test_outputs_are_added_exactly_where_something_is_predicted(name: str, data: TaskData) -> None:
    auxiliary, network, inputs = make(name)
    extra = network.head.weight.shape[1] - data.classes
    assert extra == (8 if auxiliary.predicts else 0)
    assert (network(inputs).prediction is not None) is auxiliary.predicts


def test_the_prediction_is_measured_against_the_targets_of_the_task(name: str, data: TaskData) -> None:
    _, measured = train_alone(trial_with(name), data)
    auxiliary = AUXILIARY_TASKS[name]
    assert np.isfinite(measured["self_model_mse"]).all() == auxiliary.predicts
    assert np.isfinite(measured["gradient_norm_ratio"]).all() == auxiliary.predicts
    assert np.isfinite(measured["identity_distance"]).all() == auxiliary.predicts_itself


def test_a_strength_that_a_task_does_not_have_is_refused(name: str) -> None:
    wrong = 1.0 if name == "extra_outputs" else 0.0
    depths = () if name in ("weight_decay", "dropout") else (2,)
    with pytest.raises(ConfigError, match="aux_weight"):
        AUXILIARY_TASKS[name].check(SelfModelConfig(aux_weight=wrong, target_depths=depths, control=name))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("dropout", {"aux_weight": 1.0}, "a probability below 1, got 1"),
        ("weight_decay", {"aux_weight": 1.0, "target_depths": (1,)}, "'weight_decay' has no targets"),
        ("noise_targets", {"aux_weight": 1.0}, "needs at least one depth"),
        ("extra_outputs", {"aux_weight": 0.0}, "needs at least one depth"),
        ("noise_targets", {"aux_weight": 1.0, "target_depths": (1,), "detach_targets": False}, "detach_targets: makes"),
        ("weight_decay", {"aux_weight": 1.0, "unit_weighting": "sum"}, "no difference to control 'weight_decay'"),
        ("none", {"aux_weight": 0.0, "head": "separate"}, "head: makes no difference to the baseline"),
    ],
)
def test_contradictory_controls_are_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AUXILIARY_TASKS[name].check(SelfModelConfig(control=name, **fields))


def test_an_unknown_control_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'weightdecay' is unknown: did you mean 'weight_decay'"):
        get_auxiliary_task("weightdecay")


def test_extra_outputs_leave_the_classification_network_exactly_as_the_baselines(data: TaskData) -> None:
    extended, _ = train_alone(trial_with("extra_outputs"), data)
    baseline, _ = train_alone(contract_trial("mlp", aux_weight=0), data)
    for parameter, values in baseline.state_dict().items():
        torch.testing.assert_close(extended.classifier().state_dict()[parameter], values, rtol=1e-5, atol=1e-7)


def test_weight_decay_is_that_of_torchs_optimizers() -> None:
    auxiliary, network, inputs = make("weight_decay")
    labels = torch.zeros(2, 32, dtype=torch.long)
    losses, entropy = loss_per_replicate(auxiliary, network, inputs, labels)
    penalized = torch.autograd.grad(losses.sum(), list(network.parameters()), retain_graph=True)
    plain = torch.autograd.grad(
        loss_per_replicate(make("dropout")[0], network.eval(), inputs, labels)[0].sum(), list(network.parameters())
    )
    # SGD with weight_decay λ steps along gradient + λ·w.
    for parameter, with_penalty, without in zip(network.parameters(), penalized, plain, strict=True):
        torch.testing.assert_close(with_penalty, without + STRENGTH["weight_decay"] * parameter)
    assert (losses > entropy).all()


def test_the_activation_penalty_is_the_mean_square_of_the_target_layer_and_pulls_on_it() -> None:
    auxiliary, network, inputs = make("activation_penalty")
    activations = network(inputs, auxiliary.record)
    loss = auxiliary.loss(network, activations, inputs)
    assert loss is not None
    torch.testing.assert_close(loss, activations.hidden[2].square().mean(dim=(1, 2)))
    (gradient,) = torch.autograd.grad(loss.sum(), network.get_parameter("hidden.layers.1.bias"))
    assert gradient.abs().sum() > 0


def test_dropout_drops_that_share_of_the_hidden_units_in_training_alone() -> None:
    auxiliary, network, inputs = make("dropout")
    assert auxiliary.dropout == 0.5
    many = inputs.repeat(1, 40, 1, 1, 1)
    kept = network.eval()(many).features != 0
    dropped = (network.train()(many).features == 0) & kept
    assert dropped.sum() / kept.sum() == pytest.approx(0.5, abs=0.1)


def test_noise_targets_have_the_mean_and_spread_of_each_unit_and_are_fresh_each_time() -> None:
    auxiliary, network, inputs = make("noise_targets")
    batch = inputs.repeat(1, 200, 1, 1, 1)
    activations = network(batch, auxiliary.record)
    actual = activations.hidden[2]
    first, second = target_of(auxiliary, activations, batch), target_of(auxiliary, activations, batch)
    assert not torch.equal(first, second)
    spread = actual.std(dim=1)
    assert ((first.mean(dim=1) - actual.mean(dim=1)).abs() <= 5 * spread / math.sqrt(actual.shape[1]) + 1e-6).all()
    torch.testing.assert_close(first.std(dim=1), spread, rtol=0.1, atol=1e-6)


def test_shuffled_targets_are_each_time_another_samples_activations() -> None:
    auxiliary, network, inputs = make("shuffled_targets")
    seen = network(inputs, auxiliary.record)
    for shuffled, activations in zip(target_of(auxiliary, seen, inputs), seen.hidden[2].detach(), strict=True):
        distances = torch.cdist(shuffled, activations, compute_mode="donot_use_mm_for_euclid_dist")
        # Every sample's activations are the target of exactly one sample, and never of the same sample.
        partner = distances.argmin(dim=1)
        assert distances.min(dim=1).values.max() == 0
        assert sorted(partner.tolist()) == list(range(len(activations)))
        assert (partner != torch.arange(len(activations))).all()


def test_the_random_network_is_frozen_and_differs_from_the_trained_ones() -> None:
    auxiliary, network, inputs = make("random_network")
    before = target_of(auxiliary, network(inputs, auxiliary.record), inputs)
    actual = network(inputs, auxiliary.record).hidden[2]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(target_of(auxiliary, network(inputs, auxiliary.record), inputs), before, rtol=0, atol=0)
    assert not before.requires_grad
    assert not torch.allclose(before, actual)
    assert not torch.allclose(before[0], before[1])
