import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.conftest import small_trial
from trainables import run_experiment
from trainables.complexity import weight_std
from trainables.config import NetworkConfig, SelfModelConfig
from trainables.networks import ReplicatedMLP, layers_of
from trainables.networks.base import Activations
from trainables.self_model import SelfModel
from trainables.tasks import Split, TaskData
from trainables.training import evaluate, loss_per_replicate

NETWORK = NetworkConfig(hidden_layers=2, width=6)


def build(
    aux_weight: float = 5.0, depths: tuple[int, ...] = (2,), detach: bool = True
) -> tuple[SelfModel, ReplicatedMLP]:
    config = SelfModelConfig(aux_weight=aux_weight, target_depths=depths, detach_targets=detach)
    self_model = SelfModel(config, layers_of(NETWORK), classes=3)
    return self_model, ReplicatedMLP.build(NETWORK, 4, self_model.head_rows, (0, 1))


@pytest.mark.parametrize("depths", [(1,), (2,), (1, 2)])
def test_the_loss_is_cross_entropy_plus_weight_times_mean_squared_error(depths: tuple[int, ...]) -> None:
    self_model, network = build(depths=depths)
    inputs, labels = torch.randn(2, 9, 4), torch.randint(3, (2, 9))
    total, entropy = loss_per_replicate(self_model, network, inputs, labels)
    for replicate in range(2):
        # One replicate written out with plain functions.
        activations, layer_input = [], inputs[replicate]
        for layer in network.hidden:
            layer_input = functional.relu(
                functional.linear(layer_input, layer.weight[replicate], layer.bias[replicate])  # type: ignore[index]
            )
            activations.append(layer_input)
        outputs = functional.linear(layer_input, network.head.weight[replicate], network.head.bias[replicate])
        target = torch.cat([activations[depth - 1] for depth in depths], dim=1)
        expected_entropy = functional.cross_entropy(outputs[:, :3], labels[replicate])
        expected = expected_entropy + 5.0 * functional.mse_loss(outputs[:, 3:], target)
        torch.testing.assert_close(total[replicate], expected)
        torch.testing.assert_close(entropy[replicate], expected_entropy)


def test_gradients_flow_through_the_targets_only_if_asked_to() -> None:
    inputs = torch.randn(2, 9, 4)
    gradients = []
    for detach in (True, False):
        self_model, network = build(detach=detach)
        activations = network(inputs)
        assert self_model.target(activations).requires_grad is not detach
        (gradient,) = torch.autograd.grad(self_model.mse(activations).sum(), network.get_parameter("hidden.0.weight"))
        gradients.append(gradient)
    # The same networks: the prediction's path reaches the hidden layers in both, the targets' path in one.
    assert gradients[0].abs().sum() > 0
    assert not torch.allclose(gradients[0], gradients[1])


def test_the_gradient_of_a_linear_self_model_on_its_own_input_is_two_w_minus_i_times_a_a_transposed() -> None:
    # The closed form 2(W − I)aaᵀ for one sample, L = |Wa + b − a|² with b = 0 (arXiv 2407.10188).
    self_model, network = build()
    with torch.no_grad():
        network.head.bias.zero_()
    activations = network(torch.randn(2, 1, 4))
    squared_error = self_model.mse(activations) * self_model.units
    (gradient,) = torch.autograd.grad(squared_error.sum(), network.head.weight)
    a = activations.hidden[1][:, 0].detach()
    rows = network.head.weight[:, 3:].detach()
    expected = 2 * (rows - torch.eye(6)) @ (a[:, :, None] * a[:, None, :])
    torch.testing.assert_close(gradient[:, 3:], expected)
    assert torch.equal(gradient[:, :3], torch.zeros_like(gradient[:, :3]))


def test_identity_distance_is_zero_for_the_identity_and_one_for_zero_weights() -> None:
    self_model, _ = build(depths=(1, 2))
    weight = torch.zeros(2, 3 + 12, 6)
    weight[0, 3 + 6 :] = torch.eye(6)
    torch.testing.assert_close(self_model.identity_distance(weight), torch.tensor([0.0, 1.0]))


def test_identity_distance_does_not_apply_where_the_last_hidden_layer_is_no_target() -> None:
    self_model, network = build(depths=(1,))
    assert self_model.identity_distance(network.head.weight).isnan().all()


def test_r_squared_is_one_for_a_perfect_and_zero_for_the_mean_predictor() -> None:
    self_model, _ = build()
    hidden = torch.rand(2, 50, 6)
    perfect = torch.cat([torch.zeros(50, 3), hidden[0]], dim=1)
    mean = torch.cat([torch.zeros(50, 3), hidden[1].mean(dim=0).expand(50, 6)], dim=1)

    class Fixed(torch.nn.Module):
        replicates = 2

        def forward(self, inputs: torch.Tensor) -> Activations:
            return Activations(torch.stack([perfect, mean]), (hidden, hidden))

    metrics = evaluate(Fixed(), self_model, Split(torch.randn(50, 4), torch.zeros(50, dtype=torch.long)))  # type: ignore[arg-type]
    np.testing.assert_allclose(metrics["self_model_r2"], [1.0, 0.0], atol=1e-6)
    assert metrics["self_model_mse"][0] == 0
    assert metrics["self_model_mse"][1] == pytest.approx(hidden[1].var(dim=0, correction=0).mean().item(), rel=1e-5)


def test_weight_std_is_of_the_class_rows_alone() -> None:
    weight = torch.randn(2, 10 + 64, 64)
    expected = [weight[r, :10].numpy().std(ddof=1) for r in range(2)]
    np.testing.assert_allclose(weight_std(weight, 10).numpy(), expected, rtol=1e-5)


def test_a_baseline_has_no_extra_outputs_and_no_self_model_metrics(digits: TaskData) -> None:
    result = run_experiment(small_trial(), digits)
    assert result.network.head.weight.shape[1] == 10
    for name in ("self_model_mse", "self_model_r2", "identity_distance"):
        assert np.isnan(result.measurements[name]).all()


def test_the_head_is_widened_by_the_units_of_all_targets(digits: TaskData) -> None:
    result = run_experiment(small_trial(aux_weight=1.0, hidden_layers=3, target_depths=(1, 3)), digits)
    assert result.network.head.weight.shape[1] == 10 + 8 + 8
    assert all(math.isfinite(value) for value in result.measurements["self_model_r2"])
