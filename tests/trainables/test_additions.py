"""A control and per-epoch measures can be added without editing any file of the project."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import small_trial
from trainables import run_experiment
from trainables.auxiliary import AUXILIARY_TASKS, AuxiliaryTask, PredictionTask
from trainables.measures import MEASURES, Measure
from trainables.measures.epoch import EpochView
from trainables.networks import Activations, ReplicatedNetwork
from trainables.tasks import TaskData


class DoubledTargets(PredictionTask):
    """A control that predicts something else."""

    name = "doubled_targets"
    summary = "predict twice the activations"
    strength = "weight of the prediction loss"

    def raw_target(self, activations: Activations, inputs: Tensor) -> Tensor:
        return 2 * self.targets.activations(activations)


class LogitPenalty(AuxiliaryTask):
    """A control that predicts nothing."""

    name = "logit_penalty"
    summary = "penalty on the squared logits"
    strength = "weight of the penalty"

    def loss(self, network: ReplicatedNetwork, activations: Activations, inputs: Tensor) -> Tensor | None:
        return activations.logits.square().mean(dim=(1, 2))


def test_a_new_control_that_predicts_is_trained_and_its_prediction_is_measured(
    digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AUXILIARY_TASKS, DoubledTargets.name, DoubledTargets)
    trial = small_trial(aux_weight=0.5, width=16, training={"epochs": 60}, self_model={"control": "doubled_targets"})
    result = run_experiment(trial, digits)
    assert (result.measurements["self_model_r2"] > 0.9).all()
    assert (result.measurements["gradient_norm_ratio"] > 0).all()
    # The layer does not predict itself.
    assert np.isnan(result.measurements["identity_distance"]).all()
    inputs = torch.from_numpy(digits.test_inputs[None])
    activations = result.network(inputs, trial.self_model.target_depths)
    assert activations.prediction is not None
    ratio = activations.prediction.sum(dim=(1, 2)) / activations.hidden[1].sum(dim=(1, 2))
    torch.testing.assert_close(ratio, torch.full((2,), 2.0), rtol=0.1, atol=0)


def test_a_new_control_without_a_prediction_changes_the_training(
    digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AUXILIARY_TASKS, LogitPenalty.name, LogitPenalty)
    penalized = run_experiment(small_trial(aux_weight=1.0, self_model={"control": "logit_penalty"}), digits)
    baseline = run_experiment(small_trial(), digits)
    assert penalized.network.head.weight.shape == baseline.network.head.weight.shape
    inputs = torch.from_numpy(digits.test_inputs[None])
    assert penalized.network(inputs).logits.square().mean() < 0.5 * baseline.network(inputs).logits.square().mean()
    assert np.isnan(penalized.measurements["self_model_mse"]).all()


def test_a_new_measure_is_in_the_history_of_every_epoch_and_in_the_results(
    digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Measure(
        name="bias_norm",
        label="norm of the class biases",
        unit="",
        meaning="Length of the vector of the final layer's class biases.",
        simpler="lower",
        sees="weights",
        moment="epoch",
        compute=lambda view: view.network.head.bias[:, : view.network.classes].norm(dim=1),
    )
    plain = run_experiment(small_trial(training={"epochs": 3}), digits)
    monkeypatch.setitem(MEASURES, measure.name, measure)
    result = run_experiment(small_trial(training={"epochs": 3}), digits)
    assert result.history["bias_norm"].shape == (3, 2)
    expected = result.network.head.bias.detach().norm(dim=1).numpy()
    np.testing.assert_allclose(result.measurements["bias_norm"], expected, rtol=1e-6)
    # The others do not change with it.
    for name, values in plain.measurements.items():
        np.testing.assert_array_equal(result.measurements[name], values, err_msg=name)


def test_a_new_family_of_measures_has_a_value_for_every_hidden_layer(
    digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def largest(view: EpochView) -> dict[str, Tensor]:
        return {name: w.flatten(1).abs().amax(dim=1) for name, w in view.network.layer_weights().items()}

    family = Measure(
        name="largest_weight_",
        label="largest weight of",
        unit="",
        meaning="Largest absolute weight of a hidden layer.",
        simpler=None,
        sees="weights",
        moment="epoch",
        per_layer=True,
        compute=largest,
    )
    monkeypatch.setitem(MEASURES, family.name, family)
    trial = small_trial(hidden_layers=2)
    result = run_experiment(trial, digits)
    assert family.names(trial.layers) == ("largest_weight_hidden1", "largest_weight_hidden2")
    assert all((result.measurements[name] > 0).all() for name in family.names(trial.layers))
