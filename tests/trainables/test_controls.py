"""What every control keeps to, and what each one does; the tests run on each one in CONTROLS."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainables.small import contract_trial, small_data, train_alone
from trainables import SelfModelConfig, TrialConfig
from trainables.controls import CONTROLS, Control, Setting, get_control
from trainables.errors import ConfigError
from trainables.networks import Activations, ReplicatedNetwork, get_architecture
from trainables.self_model import SelfModel
from trainables.tasks import TaskData
from trainables.training import loss_per_replicate

# A strength at which each control does something; a new one gets its line here.
STRENGTH = {
    "none": 2.0, "weight_decay": 0.1, "dropout": 0.5, "activation_penalty": 2.0, "extra_outputs": 0.0,
    "noise_targets": 2.0, "shuffled_targets": 2.0, "random_network": 2.0,
}  # fmt: skip


def trial_with(name: str, **changes: Any) -> TrialConfig:
    return contract_trial("mlp", aux_weight=STRENGTH[name], self_model={"control": name}, **changes)


@pytest.fixture(params=CONTROLS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data() -> TaskData:
    return small_data("mlp")


def make(name: str, seeds: tuple[int, ...] = (0, 1)) -> tuple[Control, ReplicatedNetwork, Tensor]:
    """A control, a network under it, and a batch of its own for each replicate."""
    trial, data = trial_with(name, seeds=seeds), small_data("mlp")
    setting = Setting(trial.network, data.shape.inputs, seeds, "cpu")
    control = get_control(name)(SelfModel(trial.self_model, trial.layers), setting)
    network = get_architecture("mlp").build(
        trial.network, data.shape.inputs, control.head(data.classes), seeds, control.dropout
    )
    inputs = torch.from_numpy(data.train_inputs[:64])
    return control, network, inputs.view(2, 32, *inputs.shape[1:])[: len(seeds)]


def targets_of(name: str) -> tuple[Tensor, Tensor, Activations]:
    """A control's targets for a batch, the network's own activations, and all it gave, each (R, B, N)."""
    control, network, inputs = make(name)
    activations = network(inputs, control.record)
    return control.target(activations, inputs), activations.hidden[control.record[0]].detach(), activations


def test_there_is_a_strength_for_every_control() -> None:
    assert set(STRENGTH) == set(CONTROLS)


def test_every_control_trains_and_changes_the_training(name: str, data: TaskData) -> None:
    _, measured = train_alone(trial_with(name), data)
    _, baseline = train_alone(contract_trial("mlp", aux_weight=0), data)
    assert np.isfinite(measured["train_loss"]).all()
    changes = not np.allclose(measured["weight_std_hidden1"], baseline["weight_std_hidden1"], rtol=1e-6)
    # More outputs alone do not touch the classification network.
    assert changes is (name != "extra_outputs")


def test_networks_under_a_control_trained_together_equal_those_trained_alone(name: str, data: TaskData) -> None:
    trial = trial_with(name)
    together, _ = train_alone(trial, data)
    for index, seed in enumerate(trial.seeds):
        alone, _ = train_alone(trial.model_copy(update={"seeds": (seed,)}), data)
        for parameter, values in alone.named_parameters():
            torch.testing.assert_close(together.get_parameter(parameter)[index], values[0], rtol=1e-4, atol=1e-6)


def test_every_control_starts_from_the_class_weights_of_the_baseline(name: str) -> None:
    _, network, _ = make(name)
    _, baseline, _ = make("dropout")
    expected = baseline.classifier().state_dict()
    for parameter, values in network.classifier().state_dict().items():
        assert torch.equal(values, expected[parameter])


def test_outputs_are_added_exactly_where_something_is_predicted(name: str, data: TaskData) -> None:
    control, network, inputs = make(name)
    extra = network.head.weight.shape[1] - data.classes
    assert extra == (8 if control.predicts else 0)
    assert (network(inputs).prediction is not None) is control.predicts


def test_what_is_measured_of_the_prediction_is_of_what_the_control_predicts(name: str, data: TaskData) -> None:
    _, measured = train_alone(trial_with(name), data)
    control = CONTROLS[name]
    assert np.isfinite(measured["self_model_mse"]).all() == control.predicts
    assert np.isfinite(measured["gradient_norm_ratio"]).all() == control.predicts
    assert np.isfinite(measured["identity_distance"]).all() == control.predicts_itself


def test_a_strength_that_a_control_does_not_have_is_refused(name: str) -> None:
    wrong = 1.0 if name == "extra_outputs" else 0.0
    depths = () if name in ("weight_decay", "dropout") else (2,)
    with pytest.raises(ConfigError, match="aux_weight"):
        CONTROLS[name].check(SelfModelConfig(aux_weight=wrong, target_depths=depths, control=name))


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
        CONTROLS[name].check(SelfModelConfig(control=name, **fields))


def test_an_unknown_control_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'weightdecay' is unknown: did you mean 'weight_decay'"):
        get_control("weightdecay")


def test_extra_outputs_leave_the_classification_network_exactly_as_the_baselines(data: TaskData) -> None:
    extended, _ = train_alone(trial_with("extra_outputs"), data)
    baseline, _ = train_alone(contract_trial("mlp", aux_weight=0), data)
    for parameter, values in baseline.state_dict().items():
        torch.testing.assert_close(extended.classifier().state_dict()[parameter], values, rtol=1e-5, atol=1e-7)


def test_weight_decay_is_that_of_torchs_optimizers() -> None:
    control, network, inputs = make("weight_decay")
    labels = torch.zeros(2, 32, dtype=torch.long)
    losses, entropy = loss_per_replicate(control, network, inputs, labels)
    penalized = torch.autograd.grad(losses.sum(), list(network.parameters()), retain_graph=True)
    plain = torch.autograd.grad(
        loss_per_replicate(make("dropout")[0], network.eval(), inputs, labels)[0].sum(), list(network.parameters())
    )
    # SGD with weight_decay λ steps along gradient + λ·w.
    for parameter, with_penalty, without in zip(network.parameters(), penalized, plain, strict=True):
        torch.testing.assert_close(with_penalty, without + STRENGTH["weight_decay"] * parameter)
    assert (losses > entropy).all()


def test_the_activation_penalty_is_the_mean_square_of_the_target_layer_and_pulls_on_it() -> None:
    control, network, inputs = make("activation_penalty")
    activations = network(inputs, control.record)
    loss = control.loss(network, activations, inputs)
    assert loss is not None
    torch.testing.assert_close(loss, activations.hidden[2].square().mean(dim=(1, 2)))
    (gradient,) = torch.autograd.grad(loss.sum(), network.get_parameter("hidden.layers.1.bias"))
    assert gradient.abs().sum() > 0


def test_dropout_drops_that_share_of_the_hidden_units_in_training_alone() -> None:
    control, network, inputs = make("dropout")
    assert control.dropout == 0.5
    many = inputs.repeat(1, 40, 1, 1, 1)
    kept = network.eval()(many).features != 0
    dropped = (network.train()(many).features == 0) & kept
    assert dropped.sum() / kept.sum() == pytest.approx(0.5, abs=0.1)


def test_noise_targets_have_the_mean_and_spread_of_each_unit_and_are_fresh_each_time() -> None:
    control, network, inputs = make("noise_targets")
    batch = inputs.repeat(1, 200, 1, 1, 1)
    activations = network(batch, control.record)
    own, first, second = activations.hidden[2], control.target(activations, batch), control.target(activations, batch)
    assert not torch.equal(first, second)
    spread = own.std(dim=1)
    assert ((first.mean(dim=1) - own.mean(dim=1)).abs() <= 5 * spread / math.sqrt(own.shape[1]) + 1e-6).all()
    torch.testing.assert_close(first.std(dim=1), spread, rtol=0.1, atol=1e-6)


def test_shuffled_targets_are_each_time_another_samples_activations() -> None:
    target, own, _ = targets_of("shuffled_targets")
    for shuffled, activations in zip(target, own, strict=True):
        distances = torch.cdist(shuffled, activations, compute_mode="donot_use_mm_for_euclid_dist")
        # Every sample's activations are somebody's target once, and nobody's own.
        partner = distances.argmin(dim=1)
        assert distances.min(dim=1).values.max() == 0
        assert sorted(partner.tolist()) == list(range(len(activations)))
        assert (partner != torch.arange(len(activations))).all()


def test_the_random_network_stays_as_it_is_and_is_none_of_the_trained_ones() -> None:
    control, network, inputs = make("random_network")
    before = control.target(network(inputs, control.record), inputs)
    own = network(inputs, control.record).hidden[2]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(control.target(network(inputs, control.record), inputs), before, rtol=0, atol=0)
    assert not before.requires_grad
    assert not torch.allclose(before, own)
    assert not torch.allclose(before[0], before[1])


class Doubled(Control):
    """A control of one's own: the whole of what adding one takes, with a line in CONTROLS."""

    name = "doubled_targets"
    summary = "predict twice the activations"
    strength = "weight of the prediction loss"
    predicts_itself = False

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        return 2 * self.self_model.activations(activations)


def test_a_new_control_is_one_class_and_one_line_in_the_table(monkeypatch: pytest.MonkeyPatch, data: TaskData) -> None:
    monkeypatch.setitem(CONTROLS, "doubled_targets", Doubled)
    monkeypatch.setitem(STRENGTH, "doubled_targets", 1.0)
    target, own, _ = targets_of("doubled_targets")
    torch.testing.assert_close(target, 2 * own)
    _, measured = train_alone(trial_with("doubled_targets"), data)
    assert np.isfinite(measured["self_model_mse"]).all()
