import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conftest import small_trial
from tests.trainables.golden_measures import TRIALS, golden, measured
from tests.trainables.small import train_alone
from trainables import run_experiment
from trainables.auxiliary import ActivationTargets, AuxiliaryTask, SelfModeling, Setting
from trainables.config import NetworkConfig, SelfModelConfig, UnitWeighting
from trainables.measures import MEASURES, Measure, end_measures, epoch_measures
from trainables.measures.epoch import EpochView, measure_epoch
from trainables.measures.formulas import effective_rank, weight_std
from trainables.measures.gradients import auxiliary_gradients, trunk_parameters
from trainables.measures.held_out import look_at_held_out
from trainables.networks import Activations, ReplicatedNetwork, get_architecture, layers_of
from trainables.tasks import InputSpec, Split, Splits, TaskData

INPUTS = InputSpec((4,))
NETWORK = NetworkConfig(hidden_layers=2, width=6)


def build(
    depths: tuple[int, ...] = (2,),
    weighting: UnitWeighting = "mean",
    aux_weight: float = 5.0,
    kind: type[AuxiliaryTask] = SelfModeling,
) -> tuple[AuxiliaryTask, ReplicatedNetwork]:
    config = SelfModelConfig(aux_weight=aux_weight, target_depths=depths, unit_weighting=weighting)
    targets = ActivationTargets(config, layers_of(NETWORK, INPUTS))
    auxiliary = kind(targets, Setting(NETWORK, INPUTS, (0, 1), "cpu"))
    return auxiliary, get_architecture("mlp").build(NETWORK, INPUTS, auxiliary.head(3), (0, 1)).eval()


def split_of(samples: int) -> Split:
    return Split(torch.randn(samples, 4), torch.randint(3, (samples,)))


class AbsoluteError(SelfModeling):
    """Self-modeling with another loss than the squared error."""

    name = "absolute_error"
    summary = "predict the target layers' activations by absolute error"

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        assert activations.prediction is not None
        return (activations.prediction - self.target(activations, inputs)).abs().mean(dim=(1, 2))


class SquaresOfHead(SelfModeling):
    """A loss that reads the prediction rows themselves beside what they predict."""

    name = "squares_of_head"
    summary = "self-modeling, with a penalty on the weights that predict"

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        error = super().loss(network, activations, inputs)
        rows = self.targets.prediction_rows(network)
        assert error is not None
        assert rows is not None
        return error + rows.square().sum(dim=(1, 2))


def loss_over(auxiliary: AuxiliaryTask, network: ReplicatedNetwork, split: Split) -> Tensor:
    """The auxiliary loss of one whole pass over the split, (R,)."""
    loss = auxiliary.loss(network, network(split.inputs[None], auxiliary.record), split.inputs[None])
    assert loss is not None
    return loss


def rows_gradient(network: ReplicatedNetwork, auxiliary: AuxiliaryTask, split: Split) -> Tensor:
    """The measured gradient on the rows that predict."""
    rows = auxiliary_gradients(network, auxiliary, split).rows
    assert rows is not None
    return rows


def view_of(network: ReplicatedNetwork, auxiliary: AuxiliaryTask, split: Split) -> EpochView:
    """The view of an epoch in which all splits are this one."""
    return EpochView(network, auxiliary, Splits(split, None, split), 1, torch.zeros(2), (0, 1))


@pytest.mark.parametrize("weighting", ["mean", "sum"])
@pytest.mark.parametrize("depths", [(1,), (2,), (1, 2)])
def test_the_measured_gradient_over_several_passes_is_that_of_one_pass_over_all_samples(
    depths: tuple[int, ...], weighting: UnitWeighting, monkeypatch: pytest.MonkeyPatch
) -> None:
    auxiliary, network = build(depths, weighting)
    split = split_of(50)
    (gradient,) = torch.autograd.grad(loss_over(auxiliary, network, split).sum(), network.head.weight)
    # Four passes; the last one is smaller.
    monkeypatch.setattr(type(network), "evaluation_batch", 16)
    torch.testing.assert_close(rows_gradient(network, auxiliary, split), gradient[:, 3:])
    ratio, cosine = view_of(network, auxiliary, split).rows_against_decay
    for replicate in range(2):
        added, decay = 5.0 * gradient[replicate, 3:].flatten(), network.head.weight[replicate, 3:].flatten()
        assert ratio[replicate] == pytest.approx((added.norm() / decay.norm()).item(), rel=1e-4)
        expected = nn.functional.cosine_similarity(added, decay, dim=0).item()
        assert cosine[replicate] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", [AbsoluteError, SquaresOfHead])
def test_the_measured_gradient_is_that_of_the_auxiliary_tasks_loss(kind: type[AuxiliaryTask]) -> None:
    auxiliary, network = build(kind=kind)
    network, split = network.double(), split_of(40)
    split = Split(split.inputs.double(), split.labels)
    measured = rows_gradient(network, auxiliary, split)
    # The slope of the loss along random directions of W, by central differences.
    weight, step = network.head.weight, 1e-6
    for _ in range(5):
        direction = torch.randn_like(measured)
        with torch.no_grad():
            weight[:, 3:] += step * direction
            above = loss_over(auxiliary, network, split)
            weight[:, 3:] -= 2 * step * direction
            below = loss_over(auxiliary, network, split)
            weight[:, 3:] += step * direction
        slope = (above - below) / (2 * step)
        torch.testing.assert_close((measured * direction).sum(dim=(1, 2)), slope, rtol=1e-5, atol=1e-7)


def test_measuring_the_gradient_leaves_the_network_as_it_was() -> None:
    auxiliary, network = build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    auxiliary_gradients(network, auxiliary, split_of(30))
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad


def test_the_gradient_of_a_layer_that_predicts_itself_is_two_w_minus_i_times_a_a_transposed() -> None:
    # The closed form 2(W − I)aaᵀ of L = |Wa + b − a|² with b = 0 (arXiv 2407.10188), averaged over samples.
    auxiliary, network = build(weighting="sum")
    with torch.no_grad():
        network.head.bias.zero_()
    split = split_of(30)
    activations = network(split.inputs[None], auxiliary.record)
    a, rows = activations.hidden[2].detach(), network.head.weight[:, 3:].detach()
    closed_form = 2 * (rows - torch.eye(6)) @ (a.transpose(1, 2) @ a) / 30
    loss = auxiliary.loss(network, activations, split.inputs[None])
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss.sum(), network.head.weight)
    torch.testing.assert_close(gradient[:, 3:], closed_form)
    torch.testing.assert_close(rows_gradient(network, auxiliary, split), closed_form)
    assert torch.equal(gradient[:, :3], torch.zeros_like(gradient[:, :3]))


def test_at_the_identity_the_self_model_has_no_gradient_and_weight_decay_still_has() -> None:
    auxiliary, network = build()
    with torch.no_grad():
        network.head.weight[:, 3:] = torch.eye(6)
        network.head.bias.zero_()
    view = view_of(network, auxiliary, split_of(30))
    torch.testing.assert_close(view.rows_against_decay.norm_ratio, torch.zeros(2))
    torch.testing.assert_close(view.trunk_against_decay.norm_ratio, torch.zeros(2))


def test_the_gradient_on_the_trunk_is_that_of_the_loss_over_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    auxiliary, network = build((1, 2))
    split = split_of(50)
    trunk = trunk_parameters(network)
    assert {id(parameter) for parameter in trunk} == {
        id(parameter) for name, parameter in network.named_parameters() if not name.startswith("head")
    }
    expected = torch.autograd.grad(loss_over(auxiliary, network, split).sum(), trunk)
    monkeypatch.setattr(type(network), "evaluation_batch", 16)
    of_trunk = auxiliary_gradients(network, auxiliary, split).trunk
    assert of_trunk is not None
    for found, gradient in zip(of_trunk, expected, strict=True):
        torch.testing.assert_close(found, gradient)
    ratio, cosine = view_of(network, auxiliary, split).trunk_against_decay
    for replicate in range(2):
        added = torch.cat([5.0 * gradient[replicate].flatten() for gradient in expected])
        decay = torch.cat([parameter[replicate].flatten() for parameter in trunk])
        assert ratio[replicate] == pytest.approx((added.norm() / decay.norm()).item(), rel=1e-4)
        assert cosine[replicate] == pytest.approx(nn.functional.cosine_similarity(added, decay, dim=0).item(), abs=1e-4)


def test_weight_decay_itself_has_its_strength_and_direction_on_the_trunk_and_no_rows(digits: TaskData) -> None:
    weight_decay = {"control": "weight_decay", "target_depths": ()}
    measured = run_experiment(small_trial(aux_weight=0.25, self_model=weight_decay), digits).measurements
    np.testing.assert_allclose(measured["trunk_gradient_norm_ratio"], 0.25, rtol=1e-5)
    np.testing.assert_allclose(measured["trunk_gradient_cosine"], 1.0, rtol=1e-5)
    assert np.isnan(measured["gradient_cosine"]).all()


def test_the_residual_of_the_identity_counts_only_the_directions_that_activations_have() -> None:
    auxiliary, network = build()
    split = split_of(40)
    features = network(split.inputs[None]).features.detach()
    with torch.no_grad():
        network.head.weight[:, 3:] = torch.eye(6)
        # Rows of the first replicate may differ from the identity where no activation goes.
        live = torch.linalg.svd(features[0]).Vh[:3]
        projected = features[0] @ live.T @ live
        network.head.weight[0, 3:] += 5 * (torch.eye(6) - live.T @ live)
        network.head.weight[1, 3:] *= 3
    view = view_of(network, auxiliary, split)
    distance, residual = MEASURES["identity_distance"].compute, MEASURES["identity_residual"].compute
    assert distance is not None and residual is not None  # noqa: PT018
    torch.testing.assert_close(distance(view), torch.tensor([5 * math.sqrt(3 / 6), 2.0]))
    beside = 5 * (features[0] - projected).norm() / features[0].norm()
    torch.testing.assert_close(residual(view), torch.tensor([float(beside), 2.0]))


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 8), units=st.integers(8, 20), samples=st.integers(21, 60))
def test_the_effective_rank_of_equally_strong_directions_is_their_number(rank: int, units: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(rank * 1000 + units)
    left = torch.randn(samples, rank, generator=generator, dtype=torch.float64)
    # Samples along directions with mean zero, so that centring does not change them.
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

    refusal = describe = build = hidden_modules = None  # type: ignore[assignment]


def test_r_squared_is_one_for_a_perfect_and_zero_for_the_mean_predictor() -> None:
    auxiliary, _ = build()
    hidden = torch.rand(2, 50, 6)
    hidden[:, :, 0] = 0
    hidden[1, :-1, 1] = 0
    seen = look_at_held_out(Fixed(hidden).eval(), auxiliary, Split(torch.randn(50, 4), torch.zeros(50).long()))
    np.testing.assert_allclose(seen.self_model_r2, [1.0, 0.0], atol=1e-6)
    assert seen.self_model_mse[0] == 0
    assert seen.self_model_mse[1] == pytest.approx(hidden[1].var(dim=0, correction=0).mean().item(), rel=1e-5)
    # A unit is dead if it is 0 for all samples.
    np.testing.assert_allclose(seen.dead_unit_share, [1 / 6, 1 / 6])
    np.testing.assert_allclose(seen.activation_norm, hidden.norm(dim=2).mean(dim=1), rtol=1e-5)
    np.testing.assert_allclose(seen.accuracy, [1.0, 1.0])


def test_weight_std_is_of_the_class_rows_alone() -> None:
    weight = torch.randn(2, 10 + 64, 64)
    expected = [weight[r, :10].numpy().std(ddof=1) for r in range(2)]
    np.testing.assert_allclose(weight_std(weight[:, :10]).numpy(), expected, rtol=1e-5)


def test_every_measure_is_in_the_results_of_its_moment(digits: TaskData) -> None:
    config = small_trial(aux_weight=1.0, hidden_layers=2)
    result = run_experiment(config, digits)
    of_epochs = {name for measure in epoch_measures() for name in measure.names(config.layers)}
    assert {"val_accuracy", "weight_std", "weight_std_hidden1", "weight_std_hidden2"} < of_epochs
    assert set(result.history) == of_epochs
    # Two are measured only if a setting asks for it.
    assert np.isnan(result.history["rlct_in_training"]).all()
    assert np.isnan(result.measurements["rlct_balanced"]).all()
    others = [values for name, values in result.history.items() if name != "rlct_in_training"]
    assert all(np.isfinite(values).all() for values in others)
    whole = [measure for measure in end_measures() if not measure.per_layer]
    at_the_end = {name for measure in whole for name in (measure.name, measure.error) if name is not None}
    at_the_end.remove("rlct_balanced_chain_se")
    assert at_the_end == {"rlct", "rlct_balanced", "rlct_chain_se", "observer_r2", "observer_agreement"}
    assert set(result.measurements) == of_epochs | at_the_end


def test_every_measure_says_what_it_is_in_one_sentence() -> None:
    assert all(MEASURES[name].name == name for name in MEASURES)
    assert all(m.label and m.meaning.endswith(".") and "\n" not in m.meaning for m in MEASURES.values())
    simpler = {name: measure.simpler for name, measure in MEASURES.items() if measure.simpler == "lower"}
    assert set(simpler) == {
        "weight_std",
        "weight_std_balanced",
        "path_norm",
        "weight_std_",
        "rlct",
        "rlct_balanced",
        "rlct_of_",
        "effective_rank",
    }


@pytest.mark.parametrize("moment", ["epoch", "end"])
def test_a_measure_of_every_epoch_has_a_formula_and_one_of_the_end_has_none(moment: Literal["epoch", "end"]) -> None:
    compute = None if moment == "epoch" else lambda view: view.train_loss
    with pytest.raises(ValueError, match="measure 'odd': with moment 'epoch' it needs `compute`"):
        Measure("odd", "odd", "", "Odd.", None, "weights", moment, compute=compute)


def test_a_measure_that_is_not_one_value_for_each_replicate_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = Measure("wrong", "", "", "", None, "weights", "epoch", compute=lambda view: view.class_weights)
    monkeypatch.setitem(MEASURES, "wrong", wrong)
    auxiliary, network = build()
    splits = Splits(split_of(20), split_of(10), split_of(10))
    with pytest.raises(ValueError, match=r"measure 'wrong' has the shape \(2, 3, 6\)"):
        measure_epoch(EpochView(network, auxiliary, splits, 1, torch.zeros(2), (0, 1)))


@pytest.mark.parametrize("first", ["gradient_cosine", "self_model_mse"])
def test_random_targets_are_drawn_in_the_same_order_whichever_measure_comes_first(
    first: str, digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = small_trial(aux_weight=1.0, self_model={"control": "noise_targets"}, training={"epochs": 3})
    expected = run_experiment(trial, digits).history
    entries = {first: MEASURES[first]} | MEASURES
    for name in list(MEASURES):
        monkeypatch.delitem(MEASURES, name)
    for name, measure in entries.items():
        monkeypatch.setitem(MEASURES, name, measure)
    history = run_experiment(trial, digits).history
    assert next(iter(history)) == first
    for name, values in expected.items():
        np.testing.assert_array_equal(history[name], values, err_msg=name)


@pytest.mark.parametrize("name", TRIALS)
def test_trials_measure_what_they_did_before(name: str, digits: TaskData) -> None:
    values = measured(TRIALS[name], digits)
    for moment, expected in golden()[name].items():
        assert values[moment].keys() == expected.keys()
        for measure, numbers in expected.items():
            # Another machine may round differently.
            np.testing.assert_allclose(values[moment][measure], numbers, rtol=1e-5, atol=1e-6, err_msg=measure)


def test_memorized_labels_give_a_generalization_gap(digits: TaskData) -> None:
    # Random labels: what is learned of them does not generalize.
    rng = np.random.default_rng(0)
    meaningless = TaskData(
        "digits", 10, digits.train_inputs[:300], rng.integers(0, 10, 300), digits.test_inputs, digits.test_labels
    )
    trial = small_trial(width=128, training={"epochs": 150, "learning_rate": 0.05, "validation_fraction": 0.0})
    _, last = train_alone(trial, meaningless)
    assert (last["generalization_gap"] > 0.6).all()
    assert (last["test_accuracy"] < 0.25).all()
