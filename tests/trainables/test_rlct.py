import copy
import math
from typing import ClassVar, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import small_trial
from tests.trainables.plain_llc import plain_llc
from trainables import RlctConfig, run_experiment
from trainables.networks import ReplicatedModule, ReplicatedNetwork
from trainables.networks.base import Activations
from trainables.rlct import estimate_rlct, resolve_nbeta
from trainables.tasks import Split, TaskData

SETTINGS = RlctConfig(step_size=1e-3, localization=10.0, chains=4, draws=400, batch_size=128)


@pytest.fixture(scope="module")
def trained(digits: TaskData) -> tuple[ReplicatedNetwork, Split]:
    config = small_trial(width=16, training={"epochs": 40}, seeds=(0, 1))
    network = run_experiment(config, digits).network
    return network, digits.split(config.training.validation_fraction, config.split_seed).train


def test_nbeta_of_the_recipe_is_m_over_log_m() -> None:
    # The published values: 82.07 at batch size 512, 15.4 at 64.
    assert resolve_nbeta(RlctConfig(batch_size=512), 60000) == pytest.approx(82.07, abs=0.01)
    assert resolve_nbeta(RlctConfig(batch_size=64), 50000) == pytest.approx(15.4, abs=0.05)
    assert resolve_nbeta(RlctConfig(nbeta="dataset"), 60000) == pytest.approx(60000 / math.log(60000))
    assert resolve_nbeta(RlctConfig(nbeta=3.5), 60000) == 3.5


@pytest.mark.slow
def test_all_replicates_and_chains_at_once_agree_with_one_plain_llc_call_per_network(
    trained: tuple[ReplicatedNetwork, Split],
) -> None:
    network, split = trained
    stacked = estimate_rlct(network, split, SETTINGS, seed=0)
    for replicate in range(network.replicates):
        initial_loss = float(stacked.initial_loss[replicate])
        reference, reference_error = plain_llc(network, replicate, split, SETTINGS, stacked.nbeta, initial_loss)
        joint_error = math.hypot(stacked.standard_error[replicate], reference_error)
        assert abs(stacked.estimate[replicate] - reference) < 3 * joint_error, (stacked.estimate, reference)
        # The bound above is strict: it is small against the estimate.
        assert joint_error < 0.2 * reference


def test_the_estimate_is_nbeta_times_the_rise_of_the_loss_in_the_kept_draws(
    trained: tuple[ReplicatedNetwork, Split],
) -> None:
    network, split = trained
    result = estimate_rlct(network, split, SETTINGS.model_copy(update={"draws": 20, "burn_in_fraction": 0.25}), seed=0)
    assert result.trace.loss.shape == (20, 2, 4)
    assert result.config.burn_in == 5
    expected = result.nbeta * (result.trace.loss - result.trace.start_loss)[5:].mean(axis=(0, 2))
    np.testing.assert_allclose(result.estimate, expected)
    with torch.no_grad():
        outputs = network(split.inputs[None]).logits
    loss = torch.nn.functional.cross_entropy(outputs[1], split.labels)
    assert result.initial_loss[1] == pytest.approx(loss.item(), rel=1e-5)


def test_sampling_leaves_the_network_and_the_global_random_state_alone(
    trained: tuple[ReplicatedNetwork, Split],
) -> None:
    network, split = trained
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    estimate_rlct(network, split, SETTINGS.model_copy(update={"draws": 4}), seed=0)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert np.random.rand() == np.random.RandomState(5).rand()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_replicate_that_diverges_does_not_touch_the_others(trained: tuple[ReplicatedNetwork, Split]) -> None:
    network, split = trained
    settings = SETTINGS.model_copy(update={"draws": 30})
    healthy = estimate_rlct(network, split, settings, seed=0)
    broken = network.repeated(1)
    with torch.no_grad():
        broken.head.weight[0] = float("inf")
    result = estimate_rlct(broken, split, settings, seed=0)
    assert result.verdicts[0] == "diverged"
    assert math.isnan(result.estimate[0])
    assert result.estimate[1] == pytest.approx(healthy.estimate[1], rel=1e-4)


def test_a_batch_larger_than_the_data_is_refused(trained: tuple[ReplicatedNetwork, Split]) -> None:
    network, split = trained
    with pytest.raises(ValueError, match="exceeds the 1150 training samples"):
        estimate_rlct(network, split, SETTINGS.model_copy(update={"batch_size": 5000}), seed=0)


class NetworksInTurn(ReplicatedModule):
    """Networks in separate modules that run one after the other, with batch norm and dropout."""

    stackable: ClassVar[bool] = False

    def __init__(self, replicates: int, features: int, classes: int):
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes)
            )
            for _ in range(replicates)
        )

    @property
    def replicates(self) -> int:
        return len(self.members)

    def replicate(self, index: int) -> Self:
        alone = copy.deepcopy(self)
        # The axis that stacked parameters have, on the one that is left.
        alone.members = nn.ModuleList([alone.members[index]])
        return alone

    def repeated(self, times: int) -> Self:
        assert times == 1, "these networks cannot be stacked"
        return copy.deepcopy(self)

    def forward(self, inputs: Tensor) -> Activations:
        logits = torch.stack([member(inputs[0].flatten(1)) for member in self.members])
        return Activations(logits, None, logits, {})


@pytest.fixture(scope="module")
def in_turn(trained: tuple[ReplicatedNetwork, Split]) -> NetworksInTurn:
    """Networks trained for a while with dropout, and left in training mode."""
    torch.manual_seed(0)
    split, networks = trained[1], NetworksInTurn(2, 64, 10)
    optimizer = torch.optim.SGD(networks.parameters(), lr=0.1, momentum=0.9)
    for _ in range(150):
        optimizer.zero_grad()
        outputs = networks(split.inputs[None]).logits
        sum(nn.functional.cross_entropy(one, split.labels) for one in outputs).backward()  # type: ignore[union-attr]
        optimizer.step()
    return networks


def test_networks_that_cannot_be_stacked_are_sampled_one_chain_after_the_other(
    in_turn: NetworksInTurn, trained: tuple[ReplicatedNetwork, Split]
) -> None:
    draws: list[int] = []
    settings = SETTINGS.model_copy(update={"draws": 200})
    result = estimate_rlct(in_turn, trained[1], settings, 0, on_draw=draws.append)
    assert result.trace.loss.shape == (200, 2, 4)
    assert draws == list(range(1, 201))
    assert (result.estimate > 0).all()
    # Every chain of every replicate has its own noise.
    assert len(np.unique(result.per_chain)) == 8
    again = estimate_rlct(in_turn, trained[1], settings, 0)
    np.testing.assert_array_equal(again.trace.loss, result.trace.loss)


def test_sampling_is_in_evaluation_mode_and_leaves_the_mode_of_the_network(
    in_turn: NetworksInTurn, trained: tuple[ReplicatedNetwork, Split]
) -> None:
    split, before = trained[1], copy.deepcopy(in_turn.state_dict())
    # Steps too small to move a weight: only the mode can change the loss.
    result = estimate_rlct(in_turn, split, SETTINGS.model_copy(update={"draws": 10, "step_size": 1e-30}), 0)
    np.testing.assert_allclose(result.trace.loss, result.trace.start_loss, rtol=1e-5)
    assert in_turn.training
    for name, value in in_turn.state_dict().items():
        assert torch.equal(value, before[name]), name
    evaluated = copy.deepcopy(in_turn).eval()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(evaluated(split.inputs[None]).logits[0], split.labels)
    assert result.initial_loss[0] == pytest.approx(loss.item(), rel=1e-5)


def test_another_sampler_seed_gives_an_independent_estimate(trained: tuple[ReplicatedNetwork, Split]) -> None:
    network, split = trained
    first = estimate_rlct(network, split, SETTINGS, 0)
    second = estimate_rlct(network, split, SETTINGS.model_copy(update={"seed": 1}), 0)
    assert not np.isin(second.per_chain, first.per_chain).any()
    joint_error = np.hypot(first.standard_error, second.standard_error)
    assert (abs(first.estimate - second.estimate) < 4 * joint_error).all()
