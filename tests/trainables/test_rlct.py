import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from devinterp.slt.llc import llc

from tests.conftest import small_trial
from trainables import RlctConfig, run_experiment
from trainables.networks import ReplicatedNetwork
from trainables.rlct import RlctEstimate, estimate_rlct, resolve_nbeta
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


def test_all_replicates_and_chains_at_once_agree_with_one_plain_llc_call_per_network(
    trained: tuple[ReplicatedNetwork, Split],
) -> None:
    network, split = trained
    stacked = estimate_rlct(network, split, SETTINGS, seed=0)
    for replicate in range(network.replicates):
        reference, reference_error = _plain_llc(network, replicate, split, stacked)
        joint_error = math.hypot(stacked.standard_error[replicate], reference_error)
        assert abs(stacked.estimate[replicate] - reference) < 3 * joint_error, (stacked.estimate, reference)
        # The bound above means something: it is small against the estimate.
        assert joint_error < 0.2 * reference


def _plain_llc(network: ReplicatedNetwork, replicate: int, split: Split, stacked: RlctEstimate) -> tuple[float, float]:
    """One network through devinterp's own entry point: estimate and standard error over chains."""
    layers = [*network.hidden, network.head]  # type: ignore[misc]
    plain = torch.nn.Sequential()
    for number, layer in enumerate(layers):
        linear = torch.nn.Linear(layer.weight.shape[2], layer.weight.shape[1])
        linear.weight.data, linear.bias.data = layer.weight[replicate].detach(), layer.bias[replicate].detach()
        plain.append(linear)
        if number < len(layers) - 1:
            plain.append(torch.nn.ReLU())

    def loss_fn(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        index = ids[:, 0]
        loss = torch.nn.functional.cross_entropy(model(split.inputs[index]), split.labels[index], reduction="none")
        return loss[:, None]

    indices = Dataset.from_dict({"input_ids": [[i, 0] for i in range(len(split))]}).with_format("torch")
    result = llc(
        plain, indices, {}, lr=SETTINGS.step_size, n_beta=stacked.nbeta, localization=SETTINGS.localization,
        loss_fn=loss_fn, num_chains=SETTINGS.chains, num_draws=SETTINGS.draws, batch_size=SETTINGS.batch_size,
        init_seed=7, match_sampling_input_ids_across_chains=False,
    )  # fmt: skip
    kept = result.loss_trace.values[:, SETTINGS.draws // 2 :]
    per_chain = stacked.nbeta * (kept.mean(axis=1) - stacked.initial_loss[replicate])
    return float(per_chain.mean()), float(per_chain.std(ddof=1) / math.sqrt(len(per_chain)))


def test_the_estimate_is_nbeta_times_the_rise_of_the_loss_in_the_kept_draws(
    trained: tuple[ReplicatedNetwork, Split],
) -> None:
    network, split = trained
    result = estimate_rlct(network, split, SETTINGS.model_copy(update={"draws": 20, "burn_in_fraction": 0.25}), seed=0)
    assert result.loss_trace.shape == (20, 2, 4)
    assert result.burn_in == 5
    expected = result.nbeta * (result.loss_trace[5:].mean(axis=(0, 2)) - result.initial_loss)
    np.testing.assert_allclose(result.estimate, expected)
    with torch.no_grad():
        outputs = network(split.inputs[None]).outputs
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


@pytest.mark.parametrize(
    ("per_chain", "verdict"),
    [
        ([10.0, 10.5, 9.5, 10.0], "sound"),
        ([10.0, 20.0, 5.0, 1.0], "chains_disagree"),
        ([-5.0, -4.0, -5.0, -6.0], "not_a_minimum"),
        ([10.0, math.nan, 10.0, 10.0], "diverged"),
        ([10.0, math.inf, 10.0, 10.0], "diverged"),
    ],
)
def test_the_verdict_says_finite_positive_and_agreeing(per_chain: list[float], verdict: str) -> None:
    estimate = RlctEstimate(np.array([per_chain]), np.zeros(1), np.zeros((2, 1, 4)), nbeta=1.0, burn_in=1)
    assert estimate.verdicts == (verdict,)


def test_a_batch_larger_than_the_data_is_refused(trained: tuple[ReplicatedNetwork, Split]) -> None:
    network, split = trained
    with pytest.raises(ValueError, match="exceeds the 1150 training samples"):
        estimate_rlct(network, split, SETTINGS.model_copy(update={"batch_size": 5000}), seed=0)
