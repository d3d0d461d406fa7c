"""Batch normalisation in perceptrons, against PyTorch's own."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from tests.conftest import small_trial
from trainables import run_experiment
from trainables.config import NetworkConfig
from trainables.networks import Head, ReplicatedNetwork, get_architecture
from trainables.rlct import estimate_rlct
from trainables.tasks import InputSpec, TaskData

CONFIG = NetworkConfig(hidden_layers=2, width=5, normalization="batch")


def built() -> ReplicatedNetwork:
    return get_architecture("mlp").build(CONFIG, InputSpec((4,)), Head(3), (0, 1))


def reference_of(network: ReplicatedNetwork, replicate: int) -> nn.Sequential:
    """PyTorch's layers with the weights of one replicate."""
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU()]
    reference = nn.Sequential(*layers, nn.Linear(5, 3))
    weights = {name: tensor[replicate] for name, tensor in network.state_dict().items()}
    names = {"0": "hidden.layers.0", "1": "hidden.layers.0.norm", "3": "hidden.layers.1", "4": "hidden.layers.1.norm"}
    for number, name in (names | {"6": "head"}).items():
        module = reference[int(number)]
        for part, value in module.state_dict().items():
            if part != "num_batches_tracked":
                value.copy_(weights[f"{name}.{part}"])
    return reference


@pytest.mark.parametrize("groups", [1, 2])
def test_a_normalized_perceptron_trains_and_evaluates_as_pytorchs(groups: int) -> None:
    network = built()
    references = [reference_of(network, replicate) for replicate in range(2)]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (network, *references)]
    for _ in range(5):
        inputs, labels = torch.randn(groups, 16, 4) * 3 + 1, torch.randint(3, (groups, 16))
        each = [(inputs[0 if groups == 1 else r], labels[0 if groups == 1 else r]) for r in range(2)]
        for optimizer in optimizers:
            optimizer.zero_grad()
        logits = network.train()(inputs).logits
        torch.autograd.backward([functional.cross_entropy(logits[r], each[r][1]) for r in range(2)])
        for r, reference in enumerate(references):
            expected = reference.train()(each[r][0])
            torch.testing.assert_close(logits[r], expected, rtol=1e-4, atol=1e-5)
            torch.autograd.backward(functional.cross_entropy(expected, each[r][1]))
        for optimizer in optimizers:
            optimizer.step()
    inputs = torch.randn(1, 9, 4)
    with torch.no_grad():
        logits = network.eval()(inputs).logits
        for r, reference in enumerate(references):
            torch.testing.assert_close(logits[r], reference.eval()(inputs[0]), rtol=1e-4, atol=1e-5)


def test_the_size_of_a_normalized_perceptron_counts_scales_and_shifts() -> None:
    size = get_architecture("mlp").size(CONFIG, InputSpec((4,)), Head(3))
    assert size.parameters == sum(parameter[0].numel() for parameter in built().parameters())


def test_the_scales_of_its_units_are_not_free() -> None:
    assert built().rescalable() is None
    with pytest.raises(ValidationError, match=r"rlct\.with_balanced: a mlp with relu has no balanced network"):
        small_trial(network={"normalization": "batch"}, rlct={"with_balanced": True})


def test_its_rlct_is_estimated_with_the_running_averages(digits: TaskData) -> None:
    trial = small_trial(network={"normalization": "batch"}, rlct={"draws": 20, "step_size": 1e-8})
    network = run_experiment(trial, digits).network.classifier().eval()
    split = digits.split(trial.training.validation_fraction, trial.split_seed).train
    # Averages that are not those of any batch: in training mode the network would be another one.
    with torch.no_grad():
        network.get_buffer("hidden.layers.0.norm.running_mean").add_(3.0)
        logits = network(split.inputs[None]).logits
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    loss = [float(functional.cross_entropy(each, split.labels)) for each in logits]
    estimate = estimate_rlct(network, split, trial.rlct, trial.seeds[0])
    np.testing.assert_allclose(estimate.initial_loss, loss, rtol=1e-5)
    # Such small steps stay where they are: every draw's loss is that of its batch in evaluation mode.
    np.testing.assert_allclose(estimate.trace.loss, estimate.trace.start_loss, rtol=1e-2)
    np.testing.assert_allclose(estimate.trace.start_loss.mean(axis=(0, 2)), loss, rtol=0.1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())
