"""Balanced networks: the same function, the shortest weights, whatever the scales of the units were."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainables.small import SMALL, contract_trial, small_data, train_alone
from tests.trainables.test_architectures import build, some_inputs
from trainables.measures.formulas import weight_std
from trainables.networks import Head, ReplicatedNetwork
from trainables.networks.balance import balanced, path_norm

RESCALABLE = ("mlp", "convnet", "embedding_bag")


def rescaled(network: ReplicatedNetwork, seed: int) -> ReplicatedNetwork:
    """A network of the same function: each unit's weights in times c, those out divided by c, 1/16 ≤ c ≤ 16."""
    changed, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    connections = changed.rescalable() or []
    scales = {}
    for weight, _, writes in connections:
        if writes is not None and writes not in scales:
            scales[writes] = 2 ** torch.empty(weight.shape[:2]).uniform_(-4, 4, generator=generator)
    with torch.no_grad():
        for weight, reads, writes in connections:
            if writes is not None:
                weight.mul_(scales[writes].view(*scales[writes].shape, *(1 for _ in weight.shape[2:])))
            if reads is not None:
                weight.div_(scales[reads].view(len(weight), 1, -1, *(1 for _ in weight.shape[3:])))
    return changed


def lengths(network: ReplicatedNetwork, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The squared lengths of the weights in and out of each unit of a layer, (R, units)."""
    connections = network.rescalable() or []
    into = [weight.square().flatten(2).sum(dim=2) for weight, _, writes in connections if writes == layer]
    out = [weight.transpose(1, 2).square().flatten(2).sum(dim=2) for weight, reads, _ in connections if reads == layer]
    return torch.stack(into).sum(dim=0), torch.stack(out).sum(dim=0)


def squares(network: ReplicatedNetwork) -> torch.Tensor:
    """The sum of the squares of all parameters, (R,)."""
    return torch.stack([part.double().square().flatten(1).sum(dim=1) for part in network.parameters()]).sum(dim=0)


@pytest.mark.parametrize("architecture", RESCALABLE)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_networks_that_differ_in_the_scales_of_their_units_have_one_balanced_network(
    architecture: str, seed: int
) -> None:
    network, inputs = build(architecture, Head(3)), some_inputs(architecture)
    other = rescaled(network, seed)
    logits = network(inputs).logits
    torch.testing.assert_close(other(inputs).logits, logits, rtol=1e-3, atol=1e-4)
    one, another = balanced(network), balanced(other)
    assert one is not None
    assert another is not None
    torch.testing.assert_close(one(inputs).logits, logits, rtol=1e-3, atol=1e-4)
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(another.get_parameter(name), parameter, rtol=1e-3, atol=1e-5)
    assert (weight_std(other.head.weight) / weight_std(network.head.weight) - 1).abs().max() > 0.05
    torch.testing.assert_close(weight_std(another.head.weight), weight_std(one.head.weight), rtol=1e-4, atol=0)
    assert (squares(one) < squares(other)).all()
    assert (squares(one) < squares(network)).all()


@pytest.mark.parametrize("architecture", RESCALABLE)
def test_each_unit_of_a_balanced_network_has_weights_in_and_out_of_one_length(architecture: str) -> None:
    network = balanced(build(architecture, Head(3)))
    assert network is not None
    layers = {writes for _, _, writes in network.rescalable() or [] if writes is not None}
    assert len(layers) >= 2
    for layer in layers:
        torch.testing.assert_close(*lengths(network, layer), rtol=1e-4, atol=0)


def test_a_unit_is_balanced_as_by_hand_and_one_that_does_nothing_becomes_zero() -> None:
    network = build("mlp", Head(2))
    first, _, second, bias, head, _ = (weight for weight, _, _ in network.rescalable() or [])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        second[:, 0, :2], bias[:, 0, 0], head[:, 1, 0] = 7.0, 2.0, 12.0
        first[:, 0, 0] = second[:, 1, 0] = 5.0  # this unit of the first layer is read by one that is not read
    changed = balanced(network)
    assert changed is not None
    first, _, second, bias, head, _ = (weight for weight, _, _ in changed.rescalable() or [])
    # Left are 2 in, as a bias, and 7 from the unit that reads something, which is 5 long itself; 12 out.
    assert first[0].count_nonzero() == second[0].count_nonzero() == head[0].count_nonzero() == 1
    into = (second[0, 0, 0] ** 2 + bias[0, 0, 0] ** 2) ** 0.5
    assert into.item() == pytest.approx(head[0, 1, 0].item(), rel=1e-5)
    assert first[0, 0, 0].item() == pytest.approx(second[0, 0, 0].item(), rel=1e-5)
    assert (first[0, 0, 0] * second[0, 0, 0] * head[0, 1, 0]).item() == pytest.approx(5 * 7 * 12, rel=1e-5)
    assert (bias[0, 0, 0] * head[0, 1, 0]).item() == pytest.approx(2 * 12, rel=1e-5)


def test_the_rows_that_predict_do_not_count() -> None:
    plain, predicting = balanced(build("mlp", Head(3))), balanced(build("mlp", Head(3, 4)))
    assert plain is not None
    assert predicting is not None
    torch.testing.assert_close(predicting.state_dict(), plain.state_dict())


def test_a_network_whose_weights_are_not_finite_has_no_finite_measure() -> None:
    network = build("mlp", Head(3))
    with torch.no_grad():
        next(network.parameters())[1, 0, 0] = torch.nan
    changed = balanced(network)
    assert changed is not None
    assert weight_std(changed.head.weight).isfinite().tolist() == [True, False]


@pytest.mark.parametrize("architecture", SMALL)
def test_the_measure_is_there_where_scales_are_free(architecture: str) -> None:
    _, measured = train_alone(contract_trial(architecture), small_data(architecture))
    assert np.isfinite(measured["weight_std_balanced"]).all() == (architecture in RESCALABLE)


def test_networks_with_another_activation_function_have_no_free_scales() -> None:
    trial = contract_trial("mlp")
    trial = trial.model_copy(update={"network": trial.network.model_copy(update={"activation": "tanh"})})
    _, measured = train_alone(trial, small_data("mlp"))
    assert np.isnan(measured["weight_std_balanced"]).all()


@pytest.mark.parametrize("architecture", RESCALABLE)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_networks_that_differ_in_the_scales_of_their_units_have_one_path_norm(architecture: str, seed: int) -> None:
    network = build(architecture, Head(3))
    one, another = path_norm(network), path_norm(rescaled(network, seed))
    assert one is not None
    assert another is not None
    torch.testing.assert_close(one, another, rtol=1e-5, atol=0.0)


def test_the_path_norm_is_the_sum_over_all_paths() -> None:
    network = build("mlp", Head(3, predicted=4))
    ((_, first, bias), (_, second, second_bias)) = network.hidden.weights_and_biases  # type: ignore[union-attr,misc]
    head, head_bias = network.head.weight[:, :3], network.head.bias[:, :3]
    expected = torch.zeros(network.replicates, dtype=torch.float64)
    for replicate in range(network.replicates):
        parts = [part[replicate].double().square() for part in (first, bias, second, second_bias, head, head_bias)]
        of_first = parts[0].sum(dim=1) + parts[1]
        of_second = parts[2] @ of_first + parts[3]
        expected[replicate] = (parts[4] @ of_second + parts[5]).sum().sqrt()
    found = path_norm(network)
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_networks_without_free_scales_have_no_path_norm() -> None:
    assert path_norm(build("transformer", Head(3))) is None
    assert path_norm(build("resnet18", Head(3))) is None
