import math

import numpy as np
import pytest
import torch

from tests.conftest import small_trial
from trainables import TrialConfig, run_experiment
from trainables.config import NetworkConfig
from trainables.errors import ConfigError
from trainables.networks import ARCHITECTURES, ReplicatedLinear, ReplicatedMLP, get_architecture, layers_of
from trainables.tasks import TaskData

CASES = [
    pytest.param(small_trial(seeds=(3, 0, 7)), id="baseline"),
    pytest.param(small_trial(aux_weight=5.0, seeds=(3, 0, 7)), id="self-modeling"),
    pytest.param(
        small_trial(aux_weight=2.0, hidden_layers=3, target_depths=(1, 3), seeds=(3, 0, 7)), id="deep, two targets"
    ),
    pytest.param(
        small_trial(
            aux_weight=1.0,
            seeds=(3, 0, 7),
            training={"optimizer": "adam", "learning_rate": 1e-3, "shuffle": "once", "validation_fraction": 0.0},
        ),
        id="adam, fixed order, no validation split",
    ),
]


@pytest.mark.parametrize("together", CASES)
def test_networks_trained_together_equal_the_same_networks_trained_one_at_a_time(
    together: TrialConfig, digits: TaskData
) -> None:
    result = run_experiment(together, digits)
    for index, seed in enumerate(together.seeds):
        alone = run_experiment(together.model_copy(update={"seeds": (seed,)}), digits)
        for name, parameter in alone.network.named_parameters():
            # float32 rounds at 1e-7; sums of a batch are taken in another order.
            torch.testing.assert_close(result.network.get_parameter(name)[index], parameter[0], rtol=1e-4, atol=1e-6)
        for name, values in alone.history.items():
            np.testing.assert_allclose(result.history[name][:, index], values[:, 0], rtol=2e-3, atol=1e-5, err_msg=name)


def test_the_same_trial_gives_the_same_numbers_twice(digits: TaskData) -> None:
    config = small_trial(aux_weight=3.0)
    first, second = run_experiment(config, digits), run_experiment(config, digits)
    for name, values in first.measurements.items():
        np.testing.assert_array_equal(values, second.measurements[name], err_msg=name)
    np.testing.assert_array_equal(first.rlct.trace.loss, second.rlct.trace.loss)


def test_a_batch_shared_by_replicates_gives_what_separate_copies_of_it_give() -> None:
    layer = ReplicatedLinear(6, 5, 4)
    layer.initialize([torch.Generator().manual_seed(seed) for seed in range(6)])
    inputs = torch.randn(2, 7, 5)
    shared = layer(inputs)
    separate = layer(inputs.repeat_interleave(3, dim=0))
    assert shared.shape == (6, 7, 4)
    torch.testing.assert_close(shared, separate)


def test_default_initialisation_is_that_of_torch_linear() -> None:
    layer = ReplicatedLinear(40, 100, 50)
    layer.initialize([torch.Generator().manual_seed(seed) for seed in range(40)])
    reference = torch.nn.Linear(100, 50)
    bound = 1 / math.sqrt(100)
    for ours, theirs in ((layer.weight, reference.weight), (layer.bias, reference.bias)):
        assert ours.abs().max() <= bound
        assert theirs.abs().max() <= bound
    # A uniform distribution on ±bound has the standard deviation bound / √3.
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_a_self_modeling_network_starts_from_the_class_weights_of_its_baseline() -> None:
    config = NetworkConfig(hidden_layers=2, width=8)
    baseline = ReplicatedMLP.build(config, 64, (10,), (0, 1))
    widened = ReplicatedMLP.build(config, 64, (10, 8), (0, 1))
    for name, parameter in baseline.named_parameters():
        torch.testing.assert_close(widened.get_parameter(name)[:, : parameter.shape[1]], parameter, rtol=0, atol=0)


def test_cutting_the_head_keeps_the_class_outputs_and_leaves_the_network_alone() -> None:
    network = ReplicatedMLP.build(NetworkConfig(width=8), 64, (10, 8), (0, 1))
    inputs = torch.randn(2, 5, 64)
    classifier = network.with_head_rows(10)
    torch.testing.assert_close(classifier(inputs).outputs, network(inputs).outputs[..., :10])
    assert network.head.weight.shape == (2, 18, 8)


def test_repeating_a_network_puts_copy_c_of_replicate_r_at_c_times_replicates_plus_r() -> None:
    network = ReplicatedMLP.build(NetworkConfig(width=8), 64, (10,), (0, 1, 2))
    many = network.repeated(4)
    assert many.replicates == 12
    for copy in range(4):
        torch.testing.assert_close(many.head.weight[copy * 3 : (copy + 1) * 3], network.head.weight)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_describes_the_layers_it_has(architecture: str) -> None:
    config = NetworkConfig(architecture=architecture, hidden_layers=3, width=6)
    network = get_architecture(architecture).build(config, 64, (10, 6), (0, 1))
    hidden = network(torch.randn(1, 5, 64)).hidden
    layers = layers_of(config)
    assert [layer.depth for layer in layers] == list(range(1, len(layers) + 1))
    assert len({layer.name for layer in layers}) == len(layers)
    assert [activations.shape for activations in hidden] == [(2, 5, layer.units) for layer in layers]


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'mpl' is unknown: did you mean 'mlp'"):
        get_architecture("mpl")
