"""The contract of architectures; the tests run on each one in ARCHITECTURES."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainables.small import SMALL, contract_trial, input_spec, network_config, small_data, train_alone
from trainables.auxiliary import ActivationTargets
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.errors import ConfigError
from trainables.networks import ARCHITECTURES, Head, ReplicatedNetwork, get_architecture, layers_of
from trainables.networks.counting import counted_size
from trainables.rlct import estimate_rlct
from trainables.tasks import InputSpec


def build(architecture: str, head: Head, seeds: tuple[int, ...] = (0, 1), dropout: float = 0.0) -> ReplicatedNetwork:
    config = network_config(architecture)
    network = get_architecture(architecture).build(config, input_spec(architecture), head, seeds, dropout)
    return network.eval()


def some_inputs(architecture: str, groups: int = 1) -> Tensor:
    """The first samples of the architecture's data, (groups, 5, …)."""
    inputs = torch.from_numpy(small_data(architecture).train_inputs)
    return torch.stack([inputs[5 * group : 5 * (group + 1)] for group in range(groups)])


def test_there_is_a_small_network_of_every_architecture() -> None:
    assert set(SMALL) == set(ARCHITECTURES)


def test_the_layers_are_those_that_are_described(architecture: str) -> None:
    layers = layers_of(network_config(architecture), input_spec(architecture))
    network = build(architecture, Head(3))
    activations = network(some_inputs(architecture), [layer.depth for layer in layers])
    assert [layer.depth for layer in layers] == list(range(1, len(layers) + 1))
    assert len({layer.name for layer in layers}) == len(layers)
    assert {depth: tuple(values.shape) for depth, values in activations.hidden.items()} == {
        layer.depth: (2, 5, layer.units) for layer in layers
    }
    for layer in layers:
        if layer.feeds_head:
            torch.testing.assert_close(activations.hidden[layer.depth], activations.features, rtol=0, atol=0)
    assert [layer.name for layer in layers] == list(network.layer_weights())
    assert all(weights.shape[0] == 2 for weights in network.layer_weights().values())


@pytest.mark.parametrize("head", [Head(3), Head(3, 4), Head(3, 4, hidden=7)], ids=str)
def test_the_stated_size_is_what_is_counted_on_the_network(architecture: str, head: Head) -> None:
    small, inputs = network_config(architecture), input_spec(architecture)
    larger_inputs = InputSpec((300,), 50) if inputs.is_text else InputSpec((2, 11, 9))
    for changes in ({}, {"hidden_layers": small.hidden_layers + 1}, {"width": 3 * small.width}):
        config = small.model_copy(update=changes)
        for sample in (inputs, larger_inputs):
            kind = get_architecture(architecture)
            assert kind.size(config, sample, head) == counted_size(kind, config, sample, head)


def test_only_the_activations_that_are_asked_for_are_given(architecture: str) -> None:
    assert set(build(architecture, Head(3))(some_inputs(architecture), (1,)).hidden) == {1}


def test_networks_trained_together_equal_the_same_networks_trained_one_at_a_time(architecture: str) -> None:
    depths = tuple(layer.depth for layer in layers_of(network_config(architecture), input_spec(architecture)))
    trial = contract_trial(architecture, self_model={"target_depths": depths[-2:]})
    data = small_data(architecture)
    stack, stack_measured = train_alone(trial, data)
    for index, seed in enumerate(trial.seeds):
        alone, alone_measured = train_alone(trial.model_copy(update={"seeds": (seed,)}), data)
        for name, tensor in alone.state_dict().items():
            # float32 rounds at 1e-7; sums of a batch are taken in another order.
            torch.testing.assert_close(stack.state_dict()[name][index], tensor[0], rtol=1e-3, atol=1e-5)
        for name, values in alone_measured.items():
            np.testing.assert_allclose(stack_measured[name][index], values[0], rtol=5e-3, atol=1e-4)


def test_the_same_trial_gives_the_same_numbers_twice(architecture: str) -> None:
    trial, data = contract_trial(architecture, seeds=(3,)), small_data(architecture)
    (first, first_measured), (second, second_measured) = train_alone(trial, data), train_alone(trial, data)
    for name, values in first_measured.items():
        np.testing.assert_array_equal(values, second_measured[name], err_msg=name)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_copies_and_single_replicates_are_the_same_networks(architecture: str) -> None:
    network, inputs = build(architecture, Head(3)), some_inputs(architecture)
    logits = network(inputs).logits
    torch.testing.assert_close(network.repeated(2)(inputs).logits, logits.repeat(2, 1, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.replicate(1)(inputs).logits, logits[1:], rtol=1e-5, atol=1e-6)


def test_a_batch_shared_by_replicates_gives_what_separate_copies_of_it_give(architecture: str) -> None:
    network = build(architecture, Head(3)).repeated(2)
    inputs = some_inputs(architecture, groups=2)
    shared = network(inputs).logits
    separate = network(inputs.repeat_interleave(2, dim=0)).logits
    torch.testing.assert_close(shared, separate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [None, 7])
def test_the_classifier_keeps_the_classes_and_predicts_nothing(architecture: str, hidden: int | None) -> None:
    network, inputs = build(architecture, Head(3, 4, hidden)), some_inputs(architecture)
    prediction = network(inputs).prediction
    assert prediction is not None
    assert prediction.shape == (2, 5, 4)
    alone = network.classifier()
    torch.testing.assert_close(alone(inputs).logits, network(inputs).logits, rtol=1e-5, atol=1e-6)
    assert alone(inputs).prediction is None
    extra = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in alone.parameters())
    assert extra > 0


@pytest.mark.parametrize("hidden", [None, 7])
def test_a_self_modeling_network_starts_from_the_weights_of_its_baseline(architecture: str, hidden: int | None) -> None:
    baseline = build(architecture, Head(3)).state_dict()
    widened = build(architecture, Head(3, 4, hidden)).classifier().state_dict()
    assert widened.keys() == baseline.keys()
    for name, tensor in baseline.items():
        torch.testing.assert_close(widened[name], tensor, rtol=0, atol=0)


def test_seeds_make_different_networks(architecture: str) -> None:
    first, second = build(architecture, Head(3))(some_inputs(architecture)).logits
    assert not torch.allclose(first, second)


def test_dropout_is_each_replicates_own_and_off_in_evaluation(architecture: str) -> None:
    inputs = some_inputs(architecture)
    plain = build(architecture, Head(3))(inputs).logits
    torch.testing.assert_close(build(architecture, Head(3), dropout=0.5)(inputs).logits, plain, rtol=0, atol=0)
    stack = build(architecture, Head(3), (0, 1), dropout=0.5).train()(inputs.repeat(2, *[1] * (inputs.dim() - 1)))
    alone = build(architecture, Head(3), (1,), dropout=0.5).train()(inputs)
    torch.testing.assert_close(stack.logits[1:], alone.logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(stack.logits, plain)


def test_the_rlct_is_sampled_around_the_weights_and_leaves_them_alone(architecture: str) -> None:
    trial, data = contract_trial(architecture, seeds=(0,)), small_data(architecture)
    network = build(architecture, Head(data.classes), trial.seeds)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    split = data.split(0.0, 0).train
    estimate = estimate_rlct(network, split, trial.rlct, seed=0)
    assert np.isfinite(estimate.per_chain).all()
    assert (estimate.trace.distance > 0).all()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_checkpoint_gives_back_the_network(architecture: str, tmp_path: Path) -> None:
    trial, data = contract_trial(architecture, self_model={"head": "separate"}), small_data(architecture)
    network = build(architecture, ActivationTargets(trial.self_model, trial.layers).head(data.classes), trial.seeds)
    for tensor in network.buffers():
        tensor.add_(0.5)
    path = save_checkpoint(tmp_path, network, trial, data.digest(), data.shape.inputs)
    loaded, inputs = load_checkpoint(path, data.digest()).network, some_inputs(architecture)
    torch.testing.assert_close(loaded(inputs).logits, network(inputs).logits, rtol=0, atol=0)


def test_inputs_of_another_kind_are_refused_with_the_architectures_that_take_them(architecture: str) -> None:
    config, inputs = network_config(architecture), input_spec(architecture)
    other = InputSpec((3, 8, 8)) if inputs.is_text else InputSpec((12,), 40)
    with pytest.raises(ConfigError, match=rf"{architecture!r} .*\(for these inputs there are also \w+"):
        layers_of(config, other)
