"""Predicting a later layer from an earlier one."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.conftest import small_trial
from trainables import run_experiment
from trainables.auxiliary import ActivationTargets, SelfModeling, Setting
from trainables.config import NetworkConfig, SelfModelConfig
from trainables.networks import get_architecture, layers_of
from trainables.tasks import InputSpec, TaskData

NETWORK, INPUTS = NetworkConfig(hidden_layers=3, width=6), InputSpec((4,))


def test_what_is_predicted_reaches_the_layers_up_to_the_one_that_is_read_and_no_later_one() -> None:
    config = SelfModelConfig(aux_weight=1.0, target_depths=(3,), head="separate", predict_from=2)
    auxiliary = SelfModeling(
        ActivationTargets(config, layers_of(NETWORK, INPUTS)), Setting(NETWORK, INPUTS, (0, 1), "cpu")
    )
    network = get_architecture("mlp").build(NETWORK, INPUTS, auxiliary.head(3), (0, 1))
    inputs = torch.randn(1, 9, 4)
    activations = network(inputs, auxiliary.record)
    assert network.separate_head is not None
    assert activations.prediction is not None
    torch.testing.assert_close(activations.prediction, network.separate_head(activations.hidden[2]))
    loss = auxiliary.loss(network, activations, inputs)
    assert loss is not None
    torch.testing.assert_close(loss, (activations.prediction - activations.hidden[3]).square().mean(dim=(1, 2)))
    torch.autograd.backward(loss.sum())
    reached = {name.rsplit(".", 1)[0] for name, each in network.named_parameters() if each.grad is not None}
    assert reached == {"hidden.layers.0", "hidden.layers.1", "separate_head.0", "separate_head.2"}


def test_a_wider_layer_can_be_read(digits: TaskData) -> None:
    trial = small_trial(
        aux_weight=1.0,
        hidden_layers=2,
        width=2,
        network={"architecture": "convnet"},
        self_model={"target_depths": (3,), "head": "separate", "predict_from": 1},
    )
    result = run_experiment(trial, digits)
    # Two channels of 4×4 pixels.
    assert result.network.get_parameter("separate_head.0.weight").shape[2] == 32
    assert np.isfinite(result.measurements["self_model_r2"]).all()
    size = get_architecture("convnet").size(trial.network, digits.shape.inputs, trial.head(10))
    assert size.parameters == sum(parameter[0].numel() for parameter in result.network.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"predict_from": 1}, "predict_from: the final layer reads the one under it alone; set head to 'separate'"),
        ({"predict_from": 3, "head": "separate"}, r"predict_from 3: needs a layer before .* the layers 1 hidden1, 2"),
        ({"predict_from": 2, "head": "separate"}, "predict_from 2: needs a layer before the one that the head reads"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_trial(aux_weight=1.0, hidden_layers=2, self_model=fields)


def test_the_baseline_predicts_from_nowhere() -> None:
    with pytest.raises(ValidationError, match="head: makes no difference to the baseline"):
        small_trial(hidden_layers=2, self_model={"head": "separate", "predict_from": 1})
