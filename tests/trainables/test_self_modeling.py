import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.conftest import small_trial
from trainables import run_experiment
from trainables.auxiliary import ActivationTargets, SelfModeling, Setting
from trainables.config import NetworkConfig, SelfModelConfig
from trainables.networks import layers_of
from trainables.networks.mlp import ReplicatedMLP
from trainables.tasks import InputSpec, TaskData
from trainables.training import loss_per_replicate

NETWORK, INPUTS = NetworkConfig(hidden_layers=2, width=6), InputSpec((4,))


def build(
    aux_weight: float = 5.0, depths: tuple[int, ...] = (2,), **options: Any
) -> tuple[SelfModeling, ReplicatedMLP]:
    config = SelfModelConfig(aux_weight=aux_weight, target_depths=depths, **options)
    targets = ActivationTargets(config, layers_of(NETWORK, INPUTS))
    auxiliary = SelfModeling(targets, Setting(NETWORK, INPUTS, (0, 1), "cpu"))
    return auxiliary, ReplicatedMLP.build(NETWORK, INPUTS, auxiliary.head(3), (0, 1))


def loss_of(auxiliary: SelfModeling, network: ReplicatedMLP, inputs: Tensor) -> Tensor:
    loss = auxiliary.loss(network, network(inputs, auxiliary.record), inputs)
    assert loss is not None
    return loss


@pytest.mark.parametrize("weighting", ["mean", "sum"])
@pytest.mark.parametrize("depths", [(1,), (2,), (1, 2)])
def test_the_loss_is_cross_entropy_plus_weight_times_squared_error(depths: tuple[int, ...], weighting: str) -> None:
    auxiliary, network = build(depths=depths, unit_weighting=weighting)
    inputs, labels = torch.randn(2, 9, 4), torch.randint(3, (2, 9))
    total, entropy = loss_per_replicate(auxiliary, network, inputs, labels)
    for replicate in range(2):
        # One replicate computed with plain functions.
        activations, layer_input = [], inputs[replicate]
        for layer in network.hidden.layers:
            weight, bias = (parameter[replicate] for parameter in layer.parameters())
            layer_input = functional.relu(functional.linear(layer_input, weight, bias))
            activations.append(layer_input)
        outputs = functional.linear(layer_input, network.head.weight[replicate], network.head.bias[replicate])
        target = torch.cat([activations[depth - 1] for depth in depths], dim=1)
        expected_entropy = functional.cross_entropy(outputs[:, :3], labels[replicate])
        error = functional.mse_loss(outputs[:, 3:], target) * (target.shape[1] if weighting == "sum" else 1)
        torch.testing.assert_close(total[replicate], expected_entropy + 5.0 * error)
        torch.testing.assert_close(entropy[replicate], expected_entropy)


@pytest.mark.parametrize("form", ["raw", "standardized"])
def test_gradients_flow_through_the_targets_only_if_asked_to(form: str) -> None:
    inputs, gradients = torch.randn(2, 9, 4), []
    for detach in (True, False):
        auxiliary, network = build(detach_targets=detach, target_form=form)
        assert auxiliary.target(network(inputs, auxiliary.record), inputs).requires_grad is not detach
        loss = loss_of(auxiliary, network, inputs).sum()
        (gradient,) = torch.autograd.grad(loss, network.get_parameter("hidden.layers.0.weight"))
        gradients.append(gradient)
    # The same networks: gradients reach the hidden layers through the prediction in both, through the targets in one.
    assert gradients[0].abs().sum() > 0
    assert not torch.allclose(gradients[0], gradients[1])


def test_standardized_targets_have_mean_zero_and_variance_one_and_dead_units_stay_zero() -> None:
    auxiliary, _ = build(target_form="standardized")
    activations = 3 * torch.randn(2, 400, 6) + 7
    activations[:, :, 0] = 0
    target = auxiliary.targets.in_form(activations)
    torch.testing.assert_close(target.mean(dim=1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(dim=1)[:, 1:], torch.ones(2, 5), atol=1e-2, rtol=0)
    assert (target[:, :, 0] == 0).all()


def test_sign_targets_say_which_units_are_active() -> None:
    auxiliary, network = build(target_form="sign")
    inputs = torch.randn(2, 50, 4)
    activations = network(inputs, auxiliary.record)
    target = auxiliary.target(activations, inputs)
    assert set(target.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(target == 1, activations.hidden[2] > 0)


def test_a_separate_head_predicts_through_a_hidden_layer_and_leaves_the_final_layer_to_the_classes() -> None:
    auxiliary, network = build(head="separate")
    assert network.head.weight.shape[1] == 3
    inputs = torch.randn(2, 9, 4)
    activations = network(inputs, auxiliary.record)
    head = network.separate_head
    assert head is not None
    (first, first_bias), (second, second_bias) = (head[0].parameters(), head[2].parameters())
    for replicate in range(2):
        features = activations.features[replicate]
        hidden = functional.relu(functional.linear(features, first[replicate], first_bias[replicate]))
        expected = functional.linear(hidden, second[replicate], second_bias[replicate])
        assert activations.prediction is not None
        torch.testing.assert_close(activations.prediction[replicate], expected)
    assert first.shape == (2, 128, 6)
    assert auxiliary.targets.prediction_rows(network) is None


def test_the_deviation_from_the_identity_is_of_the_layer_under_the_head_alone() -> None:
    auxiliary, _ = build(depths=(1, 2))
    rows = torch.zeros(2, 12, 6)
    rows[0, 6:] = torch.eye(6)
    deviation = auxiliary.targets.deviation_from_identity(rows)
    assert deviation is not None
    torch.testing.assert_close(deviation, torch.stack([torch.zeros(6, 6), -torch.eye(6)]))


@pytest.mark.parametrize(("depths", "form"), [((1,), "raw"), ((2,), "sign"), ((2,), "standardized")])
def test_there_is_no_deviation_from_the_identity_where_no_layer_is_mapped_to_itself(
    depths: tuple[int, ...], form: str
) -> None:
    auxiliary, network = build(depths=depths, target_form=form)
    rows = auxiliary.targets.prediction_rows(network)
    assert rows is not None
    assert auxiliary.targets.deviation_from_identity(rows) is None


def test_a_baseline_has_no_extra_outputs_and_no_self_model_metrics(digits: TaskData) -> None:
    result = run_experiment(small_trial(), digits)
    assert result.network.head.weight.shape[1] == 10
    for name in ("self_model_mse", "self_model_r2", "identity_distance", "gradient_norm_ratio", "gradient_cosine"):
        assert np.isnan(result.measurements[name]).all()


def test_the_head_is_widened_by_the_units_of_all_targets(digits: TaskData) -> None:
    trial = small_trial(aux_weight=1.0, hidden_layers=3, self_model={"target_depths": (1, 3)})
    result = run_experiment(trial, digits)
    assert result.network.head.weight.shape[1] == 10 + 8 + 8
    assert all(math.isfinite(value) for value in result.measurements["self_model_r2"])
