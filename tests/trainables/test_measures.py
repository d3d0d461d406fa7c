import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conftest import small_trial
from tests.trainables.small import train_alone
from trainables import run_experiment
from trainables.config import NetworkConfig, SelfModelConfig, UnitWeighting
from trainables.controls import Control, Setting, get_control
from trainables.measures import (
    EPOCH_METRICS,
    effective_rank,
    gradient_comparison,
    held_out_measures,
    prediction_gradient,
    weight_std,
)
from trainables.networks import Activations, ReplicatedNetwork, get_architecture, layers_of
from trainables.self_model import SelfModel
from trainables.tasks import InputSpec, Split, TaskData

INPUTS = InputSpec((4,))
NETWORK = NetworkConfig(hidden_layers=2, width=6)


def build(
    depths: tuple[int, ...] = (2,), weighting: UnitWeighting = "mean", aux_weight: float = 5.0
) -> tuple[Control, ReplicatedNetwork]:
    config = SelfModelConfig(aux_weight=aux_weight, target_depths=depths, unit_weighting=weighting)
    control = get_control("none")(
        SelfModel(config, layers_of(NETWORK, INPUTS)), Setting(NETWORK, INPUTS, (0, 1), "cpu")
    )
    return control, get_architecture("mlp").build(NETWORK, INPUTS, control.head(3), (0, 1)).eval()


def split_of(samples: int) -> Split:
    return Split(torch.randn(samples, 4), torch.randint(3, (samples,)))


@pytest.mark.parametrize("weighting", ["mean", "sum"])
@pytest.mark.parametrize("depths", [(1,), (2,), (1, 2)])
def test_the_measured_gradient_is_autograds(depths: tuple[int, ...], weighting: UnitWeighting) -> None:
    control, network = build(depths, weighting)
    split = split_of(50)
    activations = network(split.inputs[None], control.record)
    loss = control.loss(network, activations, split.inputs[None])
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss.sum(), network.head.weight)
    torch.testing.assert_close(prediction_gradient(network, control, split), gradient[:, 3:])
    ratio, cosine = gradient_comparison(network, control, split)
    for replicate in range(2):
        auxiliary, decay = 5.0 * gradient[replicate, 3:].flatten(), network.head.weight[replicate, 3:].flatten()
        assert ratio[replicate] == pytest.approx((auxiliary.norm() / decay.norm()).item(), rel=1e-4)
        expected = nn.functional.cosine_similarity(auxiliary, decay, dim=0).item()
        assert cosine[replicate] == pytest.approx(expected, abs=1e-4)


def test_the_gradient_of_a_layer_that_predicts_itself_is_two_w_minus_i_times_a_a_transposed() -> None:
    # The closed form 2(W − I)aaᵀ of L = |Wa + b − a|² with b = 0 (arXiv 2407.10188), averaged over samples.
    control, network = build(weighting="sum")
    with torch.no_grad():
        network.head.bias.zero_()
    split = split_of(30)
    activations = network(split.inputs[None], control.record)
    a, rows = activations.hidden[2].detach(), network.head.weight[:, 3:].detach()
    closed_form = 2 * (rows - torch.eye(6)) @ (a.transpose(1, 2) @ a) / 30
    loss = control.loss(network, activations, split.inputs[None])
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss.sum(), network.head.weight)
    torch.testing.assert_close(gradient[:, 3:], closed_form)
    torch.testing.assert_close(prediction_gradient(network, control, split), closed_form)
    assert torch.equal(gradient[:, :3], torch.zeros_like(gradient[:, :3]))


def test_at_the_identity_the_self_model_has_no_gradient_and_weight_decay_still_has() -> None:
    control, network = build()
    with torch.no_grad():
        network.head.weight[:, 3:] = torch.eye(6)
        network.head.bias.zero_()
    ratio, _ = gradient_comparison(network, control, split_of(30))
    torch.testing.assert_close(ratio, torch.zeros(2))


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 8), units=st.integers(8, 20), samples=st.integers(21, 60))
def test_the_effective_rank_of_equally_strong_directions_is_their_number(rank: int, units: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(rank * 1000 + units)
    left = torch.randn(samples, rank, generator=generator, dtype=torch.float64)
    # Directions of the samples with mean zero, so that centring leaves them.
    left = torch.linalg.qr(left - left.mean(dim=0))[0]
    right = torch.linalg.qr(torch.randn(units, rank, generator=generator, dtype=torch.float64))[0]
    assert effective_rank((left @ right.T)[None]).item() == pytest.approx(rank, rel=1e-5)
    assert effective_rank((left @ right.T)[None] + 7.0).item() == pytest.approx(rank, rel=1e-5)


def test_the_effective_rank_of_random_features_is_below_the_number_of_units_and_of_constant_ones_zero() -> None:
    features = torch.stack([torch.randn(500, 12), torch.full((500, 12), 3.0), torch.full((500, 12), math.nan)])
    random, constant, broken = effective_rank(features).tolist()
    assert 11 < random < 12
    assert constant == 0
    assert math.isnan(broken)


class Fixed(ReplicatedNetwork):
    """Two replicates that predict fixed activations perfectly, and by their mean."""

    def __init__(self, hidden: Tensor):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.zeros(2, 1))
        self.hidden = hidden

    def forward(self, inputs: Tensor, record: object = ()) -> Activations:
        prediction = torch.stack([self.hidden[0], self.hidden[1].mean(dim=0).expand_as(self.hidden[1])])
        return Activations(torch.zeros(2, 50, 3), prediction, self.hidden, {2: self.hidden})

    refusal = describe = build = layer_weights = None  # type: ignore[assignment]


def test_r_squared_is_one_for_a_perfect_and_zero_for_the_mean_predictor() -> None:
    control, _ = build()
    hidden = torch.rand(2, 50, 6)
    hidden[:, :, 0] = 0
    hidden[1, :-1, 1] = 0
    measured = held_out_measures(Fixed(hidden).eval(), control, Split(torch.randn(50, 4), torch.zeros(50).long()))
    np.testing.assert_allclose(measured["self_model_r2"], [1.0, 0.0], atol=1e-6)
    assert measured["self_model_mse"][0] == 0
    assert measured["self_model_mse"][1] == pytest.approx(hidden[1].var(dim=0, correction=0).mean().item(), rel=1e-5)
    # A unit is dead if no sample wakes it.
    np.testing.assert_allclose(measured["dead_unit_share"], [1 / 6, 1 / 6])
    np.testing.assert_allclose(measured["activation_norm"], hidden.norm(dim=2).mean(dim=1), rtol=1e-5)
    np.testing.assert_allclose(measured["accuracy"], [1.0, 1.0])


def test_weight_std_is_of_the_class_rows_alone() -> None:
    weight = torch.randn(2, 10 + 64, 64)
    expected = [weight[r, :10].numpy().std(ddof=1) for r in range(2)]
    np.testing.assert_allclose(weight_std(weight[:, :10]).numpy(), expected, rtol=1e-5)


def test_every_measure_and_the_weights_of_every_layer_are_in_the_history(digits: TaskData) -> None:
    result = run_experiment(small_trial(aux_weight=1.0, hidden_layers=2), digits)
    assert set(result.history) == {*EPOCH_METRICS, "weight_std_hidden1", "weight_std_hidden2"}
    assert all(np.isfinite(values).all() for values in result.history.values())


def test_the_generalization_gap_is_what_memorizing_leaves(digits: TaskData) -> None:
    # Labels without any meaning: what is learned of them does not carry over.
    rng = np.random.default_rng(0)
    meaningless = TaskData(
        "digits", 10, digits.train_inputs[:300], rng.integers(0, 10, 300), digits.test_inputs, digits.test_labels
    )
    trial = small_trial(width=128, training={"epochs": 150, "learning_rate": 0.05, "validation_fraction": 0.0})
    _, last = train_alone(trial, meaningless)
    assert (last["generalization_gap"] > 0.6).all()
    assert (last["test_accuracy"] < 0.25).all()
