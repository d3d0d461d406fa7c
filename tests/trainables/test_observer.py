import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import small_trial
from trainables import ObserverConfig, run_experiment
from trainables.networks import Activations, ReplicatedNetwork
from trainables.observer import Observation, observe
from trainables.tasks import InputSpec, Split, Splits, TaskData

CONFIG = ObserverConfig(epochs=12, width=64, batch_size=64, learning_rate=3e-3)


class Known(ReplicatedNetwork):
    """Two replicates whose activations are a known function of four inputs: one smooth, one noise."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.zeros(2, 1))
        self.classes = 2
        self.broken = False

    def forward(self, inputs: Tensor, record: object = ()) -> Activations:
        smooth = torch.stack([inputs[0, :, 0] + inputs[0, :, 1], inputs[0, :, 2] - inputs[0, :, 3]], dim=1)
        noise = (1e4 * inputs[-1]).sin()[:, :2]
        hidden = torch.stack([5 * smooth, noise])
        logits = 4 * hidden
        return Activations(logits * torch.nan if self.broken else logits, None, hidden, {1: hidden})

    refusal = describe = build = hidden_modules = None  # type: ignore[assignment]


def observe_known(network: Known, seeds: tuple[int, ...] = (0, 1)) -> Observation:
    generator = torch.Generator().manual_seed(0)
    splits = [Split(torch.rand(n, 4, generator=generator), torch.zeros(n).long()) for n in (2000, 500, 10)]
    return observe(network.eval(), (1,), InputSpec((4,)), Splits(*splits), CONFIG, seeds)


def test_a_simple_network_is_predicted_and_noise_is_not() -> None:
    seen = observe_known(Known())
    assert seen.r2[0] > 0.97
    assert seen.agreement[0] > 0.95
    assert abs(seen.r2[1]) < 0.1
    assert seen.agreement[1] == pytest.approx(0.5, abs=0.1)


def test_a_diverged_network_has_no_observation() -> None:
    network = Known()
    network.broken = True
    assert np.isnan(observe_known(network).agreement).all()


def test_observers_trained_together_equal_those_trained_alone(digits: TaskData) -> None:
    trial = small_trial(aux_weight=1.0, width=16, observer={"epochs": 2, "width": 16})
    all_at_once = run_experiment(trial, digits).measurements
    for index, seed in enumerate(trial.seeds):
        alone = run_experiment(trial.model_copy(update={"seeds": (seed,)}), digits).measurements
        for name in ("observer_r2", "observer_agreement"):
            np.testing.assert_allclose(all_at_once[name][index], alone[name][0], rtol=1e-3, atol=1e-3)


def test_the_observer_of_a_trained_network_agrees_with_it_far_beyond_chance(digits: TaskData) -> None:
    trial = small_trial(width=32, training={"epochs": 30}, observer={"epochs": 30, "width": 64, "batch_size": 64})
    measured = run_experiment(trial, digits).measurements
    assert (measured["observer_agreement"] > 0.85).all()
    assert (measured["observer_r2"] > 0.6).all()
    assert (measured["observer_r2"] < 1).all()


def test_without_an_observer_nothing_is_observed(digits: TaskData) -> None:
    measured = run_experiment(small_trial(observer={"epochs": 0}), digits).measurements
    assert np.isnan(measured["observer_r2"]).all()
    assert np.isnan(measured["observer_agreement"]).all()
