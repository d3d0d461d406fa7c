import math

import numpy as np
import pytest
import torch
import torchvision

from tests.conftest import small_trial
from trainables import TrialConfig, run_experiment
from trainables.config import NetworkConfig
from trainables.cost import work
from trainables.errors import ConfigError
from trainables.networks import ARCHITECTURES, Architecture, Head, get_architecture
from trainables.networks.architectures.mlp import MLP
from trainables.networks.layers import ReplicatedEmbedding, ReplicatedLinear
from trainables.tasks import InputSpec, TaskData

CASES = [
    pytest.param(small_trial(seeds=(3, 0, 7)), id="baseline"),
    pytest.param(small_trial(aux_weight=5.0, seeds=(3, 0, 7)), id="self-modeling"),
    pytest.param(
        small_trial(aux_weight=2.0, hidden_layers=3, self_model={"target_depths": (1, 3)}, seeds=(3, 0, 7)),
        id="deep, two targets",
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


@pytest.mark.parametrize("config", CASES)
def test_networks_trained_together_equal_the_same_networks_trained_one_at_a_time(
    config: TrialConfig, digits: TaskData
) -> None:
    result = run_experiment(config, digits)
    for index, seed in enumerate(config.seeds):
        alone = run_experiment(config.model_copy(update={"seeds": (seed,)}), digits)
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


@pytest.mark.parametrize("sparse", [False, True])
def test_the_mean_of_token_vectors_and_its_gradient_are_those_of_torchs_embedding_bag(sparse: bool) -> None:
    table = ReplicatedEmbedding(2, 9, 4)
    table.initialize([torch.Generator().manual_seed(seed) for seed in range(2)])
    table.sparse = sparse
    texts = torch.tensor([[[1, 5, 5, -1], [8, -1, -1, -1]], [[0, 2, 3, 4], [-1, -1, -1, -1]]], dtype=torch.int32)
    means, weights = table.mean(texts), torch.randn(2, 2, 4)
    (gradient,) = torch.autograd.grad((means * weights).sum(), table.weight)
    assert gradient.is_sparse is sparse
    for replicate in range(2):
        reference = table.weight[replicate].detach().clone().requires_grad_()
        expected = torch.stack(
            [reference[text[text >= 0].long()].mean(dim=0).nan_to_num() for text in texts[replicate]]
        )
        torch.testing.assert_close(means[replicate], expected)
        (of_reference,) = torch.autograd.grad((expected * weights[replicate]).sum(), reference)
        torch.testing.assert_close(gradient.to_dense()[replicate], of_reference)


def test_sparse_and_dense_gradients_of_a_table_train_alike_and_evaluation_has_dense_ones() -> None:
    tables = [ReplicatedEmbedding(2, 9, 4) for _ in range(2)]
    texts = torch.randint(0, 9, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    for table, sparse in zip(tables, (True, False), strict=True):
        table.initialize([torch.Generator().manual_seed(seed) for seed in range(2)])
        table.sparse = sparse
        optimizer = torch.optim.SGD(table.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(table.mean(texts).square().sum())
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight)
    (gradient,) = torch.autograd.grad(tables[0].eval().mean(texts).sum(), tables[0].weight)
    assert not gradient.is_sparse


def test_the_resnet_computes_what_torchvisions_does_with_the_same_weights() -> None:
    reference = torchvision.models.resnet18(num_classes=10)
    # For small images: a 3×3 stem of stride 1, and no max-pooling.
    reference.conv1 = torch.nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    reference.maxpool = torch.nn.Identity()
    config, inputs = NetworkConfig(architecture="resnet18", hidden_layers=0), InputSpec((3, 32, 32))
    network = get_architecture("resnet18").build(config, inputs, Head(10), (0,))
    assert [tuple(p.shape[1:]) for p in network.parameters()] == [tuple(p.shape) for p in reference.parameters()]
    with torch.no_grad():
        for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
            theirs.copy_(ours[0])
    images = torch.randn(4, 3, 32, 32)
    for mode in (True, False):
        logits, expected = network.train(mode)(images[None]).logits[0], reference.train(mode)(images)
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


def test_transformer_attention_does_not_see_beyond_the_end_of_a_text() -> None:
    config, inputs = NetworkConfig(architecture="transformer", hidden_layers=2, width=16), InputSpec((8,), 20)
    network = get_architecture("transformer").build(config, inputs, Head(2), (0,)).eval()
    text = torch.tensor([[[3, 4, 5, -1, -1, -1, -1, -1]]], dtype=torch.int32)
    beside_longer = torch.tensor([[[3, 4, 5, -1, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6, 7, 8]]], dtype=torch.int32)
    torch.testing.assert_close(network(text).logits[:, 0], network(beside_longer).logits[:, 0])


def test_an_architecture_that_is_added_at_run_time_is_trained_and_its_size_counted(
    monkeypatch: pytest.MonkeyPatch, digits: TaskData
) -> None:
    class Added(MLP):
        name = "added"
        size = Architecture.size

    monkeypatch.setitem(ARCHITECTURES, "added", Added())
    trial = small_trial()
    added = trial.model_copy(update={"network": trial.network.model_copy(update={"architecture": "added"})})
    assert work(added, digits.shape) == work(trial, digits.shape)
    assert run_experiment(added, digits).status == run_experiment(trial, digits).status


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'mpl' is unknown: did you mean 'mlp'"):
        get_architecture("mpl")
